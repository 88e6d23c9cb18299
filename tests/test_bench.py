"""Claims about `python -m launch.bench`: it can be killed and goes on, counts by the budget, and runs on a bare image."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from launch import bench
from motif_jax import compiled
from motif_jax.bench import absent, measure, reference, results, run, sizes, steps, table
from motif_jax.bench.case import Case, Prepared
from motif_jax.budget import flops, workload
from motif_jax.train import step as training

ROOT = pathlib.Path(__file__).parent.parent
TINY = [f"--config.{change}" for change in (
    "model.width=16", "model.heads=2", "model.rope_axes=(2,2,4)", "model.mlp_ratio=1", "alignment.hidden=8", "model.unroll=1",
    "optimizer.kind=adamw", "model.text_dim=6", "alignment.teacher_dim=5", "model.latent_channels=3", "model.patch=(1,1,1)",
    "data.text_tokens=20", "model.depths.dual=1", "model.depths.single=2", "model.depths.decoder=1", "route.start=1",
    "route.stop=2", "route.groups=4", "alignment.tap=2")]
ONLY = "ceilings/matmul float32/,attention/xla/24/2 heads/full"
NAMES = ["ceilings/matmul float32/8", "ceilings/matmul float32/16", "attention/xla/24/2 heads/full/forward+backward",
         "attention/xla/24/2 heads/full/forward"]


COMMIT = results.commit


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setattr(sizes, "CPU", dataclasses.replace(
      sizes.CPU, matmuls=(8, 16), copy=4096, lengths=(24,), text=8, grouped=24, seconds=0.0,
      steps={"smoke": (sizes.BucketConfig(9, 32, 32),)}))
  monkeypatch.setattr(results, "commit", lambda: "abc+1234")  # the sources may change while tests run


def test_the_commit_tells_changed_sources_apart(tmp_path, monkeypatch):
  (tmp_path / "motif_jax").mkdir()
  monkeypatch.setattr(results, "ROOT", tmp_path)
  source = tmp_path / "motif_jax" / "a.py"
  source.write_text("x = 1")
  names = [COMMIT()]
  author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
  git = lambda *arguments: subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True)
  git("init", "-q"), git("add", "."), git("commit", "-qm", "first")
  names.append(COMMIT())
  source.write_text("x = 2")
  names.append(COMMIT())
  assert names[0].startswith("sources ") and re.fullmatch("[0-9a-f]{7,}", names[1])
  assert re.fullmatch(rf"{names[1]}\+[0-9a-f]{{8}}", names[2])


def cases_of(*only, flags=()):
  return run.chosen(bench.job_of(bench.arguments([*TINY, *flags])), only)


def entries(path):
  return json.loads(path.read_text())["entries"]


def test_results_are_written_and_told(tmp_path, capsys):
  output = tmp_path / "new" / "results.json"
  bench.main(["--only", ONLY + ",ceilings/copy", f"--output={output}", *TINY])
  found = {entry["name"]: entry for entry in entries(output)}
  assert set(found) == {*NAMES, "ceilings/copy"} and all(entry["status"] == "ok" for entry in found.values())
  one = found[NAMES[2]]
  assert one["settings"] == {"batch": 1, "length": 24, "heads": 2, "head_dim": 8, "dtype": "float32", "text": 8, "real text": 8,
                             "devices of shard_map": 0}
  assert one["device"] == "cpu" and one["jax"] == jax.__version__ and one["commit"] and one["planned_bytes"] > 0
  assert 0 < one["seconds"]["low"] <= one["seconds"]["median"] <= one["seconds"]["high"]
  said = capsys.readouterr().out
  assert "quartiles" in said and "ceilings measured here: float32" in said and f"5 of 5 cases are in {output}" in said
  assert all(sum(line.startswith(f"{name} ") for line in said.splitlines()) == 1 for name in found)


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
  output, measured, seen = tmp_path / "results.json", run.measured, []

  def killed(case, *, seconds):
    if len(seen) == 2:
      raise KeyboardInterrupt
    seen.append(case.name)
    return measured(case, seconds=seconds)

  monkeypatch.setattr(run, "measured", killed)
  with pytest.raises(KeyboardInterrupt):
    bench.main(["--only", ONLY, f"--output={output}", *TINY])
  assert seen == NAMES[:2] == [entry["name"] for entry in entries(output)]
  assert os.listdir(tmp_path) == ["results.json"]
  failed = {"status": "failed", "reason": "not run"}
  monkeypatch.setattr(run, "measured", lambda case, *, seconds: seen.append(case.name) or failed)
  bench.main(["--only", ONLY, f"--output={output}", *TINY])
  bench.main(["--only", ONLY, f"--output={output}", *TINY])
  assert seen == NAMES == [entry["name"] for entry in entries(output)]
  bench.main(["--only", NAMES[1], f"--output={output}", "--again", *TINY])
  assert seen == [*NAMES, NAMES[1]] and len(entries(output)) == 4


def test_after_the_limit_no_case_is_begun(tmp_path, capsys):
  bench.main(["--only", ONLY, f"--output={tmp_path}/results.json", "--limit=-1", *TINY])
  assert "0 of 4 cases" in capsys.readouterr().out and not os.listdir(tmp_path)


@pytest.mark.parametrize("flags, said", [
    (["--only=atention"], "known groups: check, ceilings, train, .*Did you mean 'attention'"),
    (["--only=attention/flash"], "no case begins so on this device; such as attention/"),
    (["--config=configs/novel.py"], "no such file; expected one of configs/"),
    (["--config.model.widht=3", "--only=blocks"], "no such config key: model.widht"),
    (["--config.model.width=3", "--only=blocks"], "not divisible by model.heads"),
    (["--fast"], "unknown argument --fast"),
    (["--absent=a100"], "at hand for h100, h200"),
])
def test_wrong_flags_are_answered_with_what_was_expected(flags, said, capsys):
  with pytest.raises(SystemExit) as caught:
    bench.main(flags)
  assert re.search(said, str(caught.value)), caught.value


@pytest.mark.parametrize("fault, said", [
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n while trying"), "out of memory: RESOURCE_EXHAUSTED: Out of memory while"),
    (NotImplementedError("no such kernel"), "NotImplementedError: no such kernel")])
def test_what_fails_is_a_result(fault, said):
  def prepare():
    raise fault
  found = measure.measured(Case("x/y", {}, prepare), seconds=0)
  assert found["status"] == "failed" and found["reason"].startswith(said)


def test_what_does_not_fit_is_not_run(monkeypatch):
  monkeypatch.setattr(measure, "memory_of", lambda device: 10.0)
  prepared = Prepared(jax.jit(lambda x: pytest.fail("called") if isinstance(x, float) else x + 1), [(jax.numpy.zeros(7),)])
  found = measure.measured(Case("x/y", {}, lambda: prepared), seconds=0)
  assert found["reason"].startswith("out of memory: the compiler plans 5.6e-08 GB")


def test_a_case_is_compiled_from_shapes_alone_and_refused_where_it_does_not_fit():
  zeros = jax.jit(lambda: jax.numpy.zeros((3, 5)), compiler_options={"xla_backend_optimization_level": 0})  # as a state is made
  case = Case("x/y", {}, lambda: Prepared(jax.jit(lambda x: x + 1, donate_argnums=0), [(zeros(),)], carry=True))
  only = lambda room: measure.measured(absent.only_compiled(case, jax.devices()[0], room), seconds=0)
  before = len(jax.live_arrays())
  found = only(1e9)
  assert len(jax.live_arrays()) == before
  assert (found["argument_bytes"], found["output_bytes"], found["planned_bytes"]) == (60, 60, 60) and "seconds" not in found
  assert only(10.0)["reason"].startswith("out of memory: the compiler plans 6e-08 GB")


@pytest.mark.parametrize("name", [
    "blocks/dual/48/forward", "blocks/single/48/forward+backward", "blocks/decoder/48/forward",
    "attention/xla/24/2 heads/padded/forward", "attention/xla/24/2 heads/full/forward+backward", "ceilings/matmul float32/16"])
def test_flops_of_a_case_are_those_that_the_compiler_made(name):
  (case,) = [case for case in cases_of(name, flags=["--config.model.attention=xla"]) if case.name == name]
  executable, _ = measure.compile_(case.prepare())
  assert compiled.matmul_flops(executable.as_text()) == pytest.approx(case.executed, rel=0.02)


@pytest.mark.parametrize("variant", steps.VARIANTS)
def test_flops_of_a_training_step_are_the_budget_s(variant):
  (case,) = cases_of(f"train/smoke/{variant}")
  cfg = steps.variant_of(bench.load("smoke", sizes.CPU, bench.arguments(TINY).changed), variant)
  tokens, count = workload.Tokens(48, cfg.data.text_tokens), len(jax.devices())
  rows = case.settings["batch"] // count
  split = workload.make_split((1, count, 1), cfg.model.heads)
  executed = flops.executed(cfg, tokens, training.plan_at(cfg, 0), split).values()
  assert case.model == rows * flops.model_flops(cfg.model, tokens).total
  assert case.executed == rows * sum(part.total for part in executed)
  assert any(s.routed for s in training.plan_at(cfg, 0)) == (variant == "routed")
  assert case.settings["plan"].count("tap") == (variant == "aligned")


def test_a_step_of_sampling_is_two_forward_passes():
  (case,) = cases_of("sample/smoke")
  model = bench.load("smoke", sizes.CPU, bench.arguments([*TINY, "--config.model.attention=xla"]).changed).model
  assert case.model == 2 * flops.forward(model, workload.Tokens(48, 20)).total


def test_shares_and_floors_are_of_the_measured_ceilings():
  entry = dict(status="ok", dtype="bfloat16", argument_bytes=6e9, output_bytes=2e9, planned_bytes=9e9, compile_s=1.5)
  timed = lambda median, **work: entry | dict(seconds=dict(median=median, low=median, high=median), model_flops=0.0,
                                              executed_flops=0.0) | work
  known = [timed(0.5, name="ceilings/matmul bfloat16/8", executed_flops=4e14), timed(0.004, name="ceilings/copy"),
           timed(1.0, name="ceilings/matmul bfloat16/4", executed_flops=4e14)]
  case = timed(0.25, name="train/x", model_flops=1e14, executed_flops=1.5e14)
  _, line, said = table.lines([case], known)
  assert line.split() == ["train/x", "250", "ms", "250", "ms-", "250", "ms", "400", "600", "75%", "125", "ms", "50%", "9", "-",
                          "1.5", "s"]
  assert said == "ceilings measured here: bfloat16 800 TFLOP/s, copy 2 TB/s"
  assert table.floor(case | dict(model_flops=1e12), {"bfloat16": 8e14, "copy": 2e12}) == 8e9 / 2e12  # bytes, not products


def test_errors_of_a_backend_are_found(monkeypatch):
  from motif_jax.bench import checks
  assert checks.attention_errors("chunked", 8, "float32")["errors"]["to k"] < 1e-5
  wrong = lambda q, k, v, mask: checks.BACKENDS["xla"](q, k, v, None)  # as if padding were real
  monkeypatch.setitem(checks.BACKENDS, "chunked", wrong)
  with pytest.raises(ValueError, match="errors above 0.0001: output"):
    checks.attention_errors("chunked", 8, "float32")


def test_an_image_without_torch_says_that_the_reference_needs_it(tmp_path, monkeypatch):
  (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  found = measure.measured(cases_of("reference/torch")[0], seconds=0)
  assert found["reason"] == ("ValueError: the reference needs torch and diffusers (requirements-test.txt has their versions): "
                             "No module named torch")


def test_the_reference_waits_until_it_is_asked_for():
  assert not any(case.group == "reference" for case in cases_of())
  ours = [case for case in cases_of("reference") if case.name.startswith("reference/ours")]
  assert len(ours) == 2 and ours[0].model == 3 * ours[1].model
  assert ours[0].executed > 3 * ours[1].executed and ours[1].executed < ours[1].model  # recomputed; without what nobody reads


def test_ratios_are_of_what_both_sides_have_run():
  entry = lambda name, median: dict(name=name, status="ok", seconds=dict(median=median))
  found = [entry("reference/torch/a/forward", 3.0), entry("reference/ours/a/forward", 2.0), entry("reference/torch/b", 1.0)]
  assert reference.ratios(found) == ["a/forward: torch takes 1.5 times as long as ours"]


BARE = """
import sys

BLOCKED = ("ml_collections", "clu", "grain", "array_record", "tensorflow_datasets", "orbax", "tensorflow", "torch", "tensorboard",
           "av", "PIL", "safetensors", "tokamax", "transformers", "diffusers", "pytest")
class Bare:
  def find_spec(self, name, path=None, target=None):
    if name.startswith(BLOCKED): raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Bare())
from launch import bench
bench.main(sys.argv[1:])
"""


def test_it_runs_on_an_image_without_our_other_packages(tmp_path):
  output = tmp_path / "results.json"
  one = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  only = "--only=train/smoke/aligned,attention/xla/192/1 heads/padded/forward"
  done = subprocess.run(
      [sys.executable, "-c", BARE, only, "--config=configs/smoke.py", f"--output={output}", *TINY, "--config.model.depths.dual=0",
       "--config.route.start=0", "--config.route.stop=1"], cwd=ROOT, capture_output=True, text=True, check=False,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": one})
  assert done.returncode == 0, done.stderr
  found = {entry["name"]: entry["status"] for entry in entries(output)}
  assert found.pop("train/smoke/aligned/9x32x32") == "ok", done.stdout
  assert set(found.values()) == {"ok"} and len(found) == 2
