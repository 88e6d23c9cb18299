"""Claims about the curriculum: stages go on from each other, cross-attention comes in unnoticed, and ends are remembered."""

import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import curriculum as command
from motif_jax import config, mesh as meshes, sample
from motif_jax.config import MeshConfig
from motif_jax.train import checkpoint, curriculum, loop
from motif_jax.train.optimizer import make_optimizer
from tests import tiny


def _config(*, steps, tokens, cross, aligned):
  c = tiny.config_dict()
  c.model.depths = dict(dual=1, single=1, decoder=0)
  c.model.cross_attention = dict(kind="shared", query_norm="scale", dual=False) if cross else dict(
      kind="none", query_norm="none", dual=False)
  c.route.keep, c.alignment.weight, c.data.text_tokens = 1.0, 0.5 if aligned else 0.0, tokens
  c.alignment.tap = 1
  c.optimizer.update(dict(warmup=1, ema=0.5, rates=(("single/cross/.*", 5.0),) if cross else ()))
  c.train.update(dict(steps=steps, save_every=100, telemetry_every=1 if cross else 0))
  return config.from_config_dict(c)


STAGES = [curriculum.Stage("one", _config(steps=3, tokens=1, cross=False, aligned=True)),
          curriculum.Stage("two", _config(steps=4, tokens=5, cross=True, aligned=False))]
MESH = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])


def _prepare(seen, *, stop_at=None):
  """`loop.prepare` on random batches, noting (folder, step) of each; a SIGTERM comes while batch `stop_at` is read."""

  def prepare(cfg, folder):
    def batches(step):
      for i in itertools.count(step):
        if (os.path.basename(folder), i) == stop_at:
          os.kill(os.getpid(), signal.SIGTERM)
        seen.append((os.path.basename(folder), i))
        yield None, tiny.batch(cfg, i)

    return loop.Job(cfg, folder, MESH, make_optimizer(cfg.optimizer, steps=cfg.train.steps), batches)

  return prepare


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
  """(folder, batches seen): walked with an interrupt in the first stage, and to the end."""
  folder, seen = tmp_path_factory.mktemp("curriculum"), []
  assert not curriculum.walk(STAGES, folder, prepare=_prepare(seen, stop_at=("one", 1)))
  assert curriculum.read(folder) == {}
  assert curriculum.walk(STAGES, folder, prepare=_prepare(seen))
  return folder, seen


def test_an_interrupted_curriculum_goes_on_in_the_stage_and_at_the_step_where_it_was(walked):
  folder, seen = walked
  assert seen == [*(("one", i) for i in range(3)), *(("two", i) for i in range(4))]
  assert list(curriculum.read(folder)) == ["one", "two"]
  assert curriculum.walk(STAGES, folder, prepare=_prepare(seen)) and len(seen) == 7  # nothing is left to do


def test_the_inserted_cross_attention_leaves_samples_as_they_were_bit_for_bit(walked):
  folder, _ = walked
  job = _prepare([])(STAGES[1].cfg, str(folder / "elsewhere"))
  old_cfg, old = checkpoint.restore_weights(str(folder / "one"))
  state, changes = curriculum.from_checkpoint(str(folder / "one"), job)
  assert {name.split("/")[2] for name in changes.new} == {"cross"} and int(state.step) == 0
  assert {name.split("/")[0] for name in changes.dropped} == {"projector"}  # alignment is off
  assert np.abs(np.asarray(old["output"]["proj"]["kernel"])).max() > 1e-3  # the model has learnt to say something
  rng = np.random.default_rng(0)
  text, mask = rng.standard_normal((2, 5, 12), np.float32), np.ones((2, 5), bool)
  run = lambda params, cfg: sample.generate(params, cfg, jnp.asarray(text), mask, text[:1] * 0, mask[:1], key=jax.random.key(3),
                                            grid=(tiny.FRAMES, tiny.HEIGHT, tiny.WIDTH))
  np.testing.assert_array_equal(run(state.ema, STAGES[1].cfg), run(old, old_cfg))


def test_the_inserted_cross_attention_writes_from_its_second_step_on(walked):
  folder, _ = walked
  told = {}
  for line in (folder / "two" / "scalars.jsonl").read_text().splitlines():
    line = json.loads(line)
    if "telemetry/cross_write/single/00" in line:
      told[line["step"]] = line["telemetry/cross_write/single/00"]
  assert told[1] == 0 and 0 < told[2] < told[4]


@pytest.mark.parametrize("flags, said", [
    (["--stages=0-3", "--small"], "the stages are 1 to 10"), (["--stages=a", "--small"], "no list of stages"),
    (["--stages=1"], "give --data"), (["--small", "--set=model.widht=3"], "no such config key: model.widht"), (["--data=nowhere/{stage}"], "nowhere/stage_01"),
    (["--data={x}/y", "--stages=1"], "{x}/y"),
])
def test_wrong_flags_are_one_clear_error(tmp_path, flags, said):
  with pytest.raises(SystemExit, match=f"error: .*{said}"):
    command.main([f"--workdir={tmp_path}", *flags])


def test_keys_are_set_in_every_stage():
  args = command.parse(["--workdir=x", "--small", "--set=model.mlp_ratio=2", "--set=optimizer.average=power"])
  for name in ("stage_01", "stage_09"):
    cfg = command.config_of(name, args)
    assert (cfg.model.mlp_ratio, cfg.optimizer.average) == (2, "power")


def test_ranges_of_stages_are_read():
  assert command.numbers("9,2-4") == [2, 3, 4, 9]
