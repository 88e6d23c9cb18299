"""Claims about `python -m launch.profile`, on one real trace: a tiny model on eight devices, rows over four, weights over two."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch import profile
from motif_jax import sharding
from motif_jax.bench import steps as programs
from motif_jax.profile import recording, report
from motif_jax.train.state import abstract_state

ROOT = pathlib.Path(__file__).parent.parent
CHANGES = dict(model=dict(width=24, heads=2, depths=dict(dual=1, single=1, decoder=1), rope_axes=(4, 4, 4), mlp_ratio=2,
                          text_dim=16, latent_channels=4, unroll=1, remat="block"),
               route=dict(start=0, stop=2, keep=0.5, groups=4), alignment=dict(tap=1, hidden=20, teacher_dim=6),
               data=dict(batch_size=8, text_tokens=5), optimizer=dict(kind="adamw"), mesh=dict(data=4, fsdp=2))


def flags(values, path="--config"):
  for key, value in values.items():
    yield from flags(value, f"{path}.{key}") if isinstance(value, dict) else [f"{path}.{key}={value}"]


def zeros(key, cfg, mesh, optimizer):
  state = abstract_state(cfg, optimizer)
  return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state), sharding.state_shardings(state, mesh))


@pytest.fixture(scope="module", autouse=True)
def process():
  """Leaves the environment and jax as they were."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    yield
  jax.config.update("jax_compilation_cache_include_metadata_in_key", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The folder of a trace that the command has taken."""
  folder = tmp_path_factory.mktemp("profile")
  with pytest.MonkeyPatch.context() as patch:  # values do not matter here, and making random ones takes as long as the rest
    patch.setattr(programs, "init_state", zeros)
    patch.setattr(programs, "lively", lambda params: params)
    profile.main(["--config=configs/smoke.py", f"--workdir={folder}", "--bucket=9x64x64", "--strides=4,8,8", "--steps=2:4",
                  *flags(CHANGES)])
  return folder


@pytest.fixture(scope="module")
def found(folder):
  (file,) = folder.rglob("report.json")
  return report.from_json(json.loads(file.read_text())["report"])


def times(node, path=()):
  yield (*path, node.name), node.work.ms
  for child in node.children:
    yield from times(child, (*path, node.name))


def test_every_part_of_the_model_has_its_time(found):
  ms = {path[1:]: time for path, time in times(found.tree)}
  for kind in ("dual", "single", "decoder"):
    for phase in ("forward", "backward", "recompute"):
      for part in (("attention", "attend"), ("attention", "query"), ("mlp",), ("modulation",)):
        assert ms[phase, kind, *part] > 0, (phase, kind, part)
  for path in ("single", "cross", "attend"), ("loss",), ("alignment",), ("routing",), ("text_embed",), ("output",):
    assert ms["forward", *path] > 0, path
  assert ms["optimizer", "adamw"] > 0 and ms["ema",] > 0 and ms["draws", "routing"] > 0


def test_its_times_add_up_to_that_of_all_threads(found):
  children = sum(child.work.ms for child in found.tree.children)
  assert children + found.tree.own.ms == pytest.approx(found.tree.work.ms)
  assert sum(row.work.ms for row in found.instructions) == pytest.approx(found.tree.work.ms)
  assert found.tree.own.flops == 0 < found.tree.work.flops  # what has no name is copies and the like of the compiler's own
  assert 0 < found.busy_ms <= found.wall_ms and 0 < found.exposed_ms <= found.sending_ms < found.busy_ms


def test_the_weights_that_devices_gather_are_told(found):
  assert found.devices == 8 and found.steps == 2
  assert any(row.op == "all-gather" and "dual" in row.scope for row in found.sending)


def test_reading_a_trace_again_gives_the_same_report(folder, capsys):
  (written,) = folder.rglob("report.txt")
  before, in_json = written.read_text(), json.loads((written.parent / "report.json").read_text())
  profile.main([f"--read={folder}"])
  assert before in capsys.readouterr().out and written.read_text() == before
  assert in_json == json.loads((written.parent / "report.json").read_text()) and in_json["run"]["steps"] == [2, 4]
  for said in ("9x64x64", "forward  recompute   backward", "steps 2:4 traced", "communication", "idle", "largest results"):
    assert said in before, said


@pytest.mark.parametrize("arguments, said", [
    (["--read=tests"], "tests holds no trace: expected a file"),
    (["--config=configs/smoke.py"], "Give --config=FILE and --workdir=DIR"),
    (["--config=configs/none.py", "--workdir=x"], "configs/ has __init__.py, base.py"),
    (["--config=configs/smoke.py", "--workdir=x", "--config.modl.width=3"], "no such config key: modl.width"),
    (["--config=configs/smoke.py", "--workdir=x", "--steps=5:3"], "--steps=5:3 traces -2 steps; expected 1 to 1000"),
    (["--config=configs/smoke.py", "--workdir=x", "--steps=0"], "traces 0 steps"),
    (["--config=configs/smoke.py", "--workdir=x", "--steps=-1:2"], "expected a number such as 3, or A:B"),
    (["--config=configs/smoke.py", "--workdir=x", "--bucket=9x32"], "not FRAMESxHEIGHTxWIDTH"),
    (["--config=configs/smoke.py", "--workdir=x", "--bucket=8x32x32"], "does not fit a codec of strides"),
    (["--config=configs/smoke.py", "--workdir=x", "--bucket=9x32x32,1x32x32"], "names 2 buckets"),
    (["--config=configs/smoke.py", "--workdir=x", "--strides=4,8"], "three positive whole numbers"),
    (["--config=configs/smoke.py", "--workdir=x", "--config.data.batch_size=12"], "data.batch_size 12 does not divide"),
])
def test_bad_input_is_answered_in_one_error(arguments, said):
  with pytest.raises(SystemExit) as caught:
    profile.main(arguments)
  assert said in str(caught.value.code)


def test_a_trace_without_its_program_is_told_from_one_of_ours(folder, tmp_path):
  (trace,) = folder.rglob("*.xplane.pb")
  (tmp_path / trace.name).write_bytes(trace.read_bytes())
  with pytest.raises(ValueError, match="without program.hlo.gz and run.json"):
    recording.read(tmp_path)


def test_the_command_needs_no_more_than_a_bare_gpu_image_has():
  absent = ("ml_collections", "clu", "grain", "tensorflow_datasets", "array_record", "orbax", "tensorboard", "PIL", "av",
            "safetensors", "tokenizers", "torch")
  code = (f"import sys; sys.modules.update(dict.fromkeys({absent})); from launch import profile; "
          "print(profile.trace.__doc__, profile.strides_of(profile.read_config('configs/motif_2b.py', []), None))")
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0 and "((4, 8, 8), 'of the released codec, because" in done.stdout, done.stdout + done.stderr
