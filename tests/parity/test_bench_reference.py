"""Claims about `launch.bench --reference`: what it times is the torch original, at our config and shapes."""

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from launch import bench
from motif_jax.bench import reference, run, table
from motif_jax.bench.measure import measured
from motif_jax.weights import names
from tests.parity import cases

TINY = [f"--config.{change}" for change in (
    "model.width=16", "model.heads=2", "model.rope_axes=(2,2,4)", "model.mlp_ratio=1", "model.text_dim=6",
    "model.latent_channels=3", "model.patch=(1,1,1)")]


def test_the_original_is_built_with_our_names_and_shapes():
  with torch.device("meta"):
    model = diffusers.MotifVideoTransformer3DModel(**reference.arguments(cases.TINY))
  assert {name: tuple(p.shape) for name, p in model.named_parameters()} == names.their_shapes(cases.TINY)


def test_the_original_is_timed_in_a_process_of_its_own(monkeypatch):
  monkeypatch.setenv("OMP_NUM_THREADS", "1")  # more are 100 times slower at these sizes
  job = bench.job_of(bench.arguments(TINY))
  (case,) = [case for case in run.chosen(job, ["reference/torch"]) if case.name.endswith("forward+backward")]
  found = measured(case, seconds=0)
  assert found["status"] == "ok", found
  assert found["attention"] == "native" and not found["checkpointed"] and found["seconds"]["blocks"] >= 3
  work = dict(name=case.name, dtype=case.dtype, model_flops=case.model, executed_flops=0.0)
  assert "native" in table.lines([found | work], [])[1]
