"""Claims about checkpoints: whole, independent of the mesh, and clear about what they are."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from motif_jax import config, sharding
from motif_jax.train import checkpoint, saved_config
from tests.small_checkpoints import ABSTRACT, CFG, ONE, assert_same, keeping, make_config, mesh_of, random_state, saved


def _copy(tree):
  return jax.tree.map(lambda x: np.array(x, copy=True), tree)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A work directory with steps 1 and 2, saved on eight devices; to be read only."""
  return saved(tmp_path_factory.mktemp("run"), 1, 2, mesh=mesh_of(1, 8, 1))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_a_checkpoint_of_one_mesh_is_restored_on_any_other(run, sizes):
  with checkpoint.make_manager(run, CFG.train) as manager:
    state = checkpoint.restore(manager, ABSTRACT, CFG, mesh_of(*sizes))
  assert_same(state, random_state(2, seed=2))
  shardings = sharding.state_shardings(ABSTRACT, mesh_of(*sizes))
  assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings)))


def test_training_on_after_an_async_save_does_not_reach_into_it(tmp_path):
  state = random_state(2)
  before = _copy(state)
  train = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  with checkpoint.make_manager(tmp_path, CFG.train) as manager:
    checkpoint.save(manager, state, CFG)
    for _ in range(5):  # in the memory of the state that is being written
      state = train(state)
    manager.wait_until_finished()
    assert_same(checkpoint.restore(manager, ABSTRACT, CFG, ONE), before)


def test_the_newest_checkpoints_are_kept_and_the_last_is_restored(tmp_path):
  saved(tmp_path, 1, 2, 3, cfg=keeping(2))
  with checkpoint.make_manager(tmp_path, keeping(2)) as manager:
    assert sorted(manager.all_steps()) == [2, 3]
    assert int(checkpoint.restore(manager, ABSTRACT, CFG, ONE).step) == 3


def test_an_empty_folder_restores_nothing(tmp_path):
  with checkpoint.make_manager(tmp_path, CFG.train) as manager:
    assert checkpoint.restore(manager, ABSTRACT, CFG, ONE) is None
  checkpoint.check_architecture(tmp_path, CFG)
  with pytest.raises(ValueError, match="no finished checkpoint"):
    checkpoint.restore_for_sampling(tmp_path)


def test_another_architecture_is_one_error_that_names_every_difference(run):
  other = make_config(width=32, rope_axes=(4, 6, 6))
  other = dataclasses.replace(other, optimizer=dataclasses.replace(other.optimizer, kind="muon"))
  with pytest.raises(ValueError) as error:
    checkpoint.check_architecture(run, other)
  with checkpoint.make_manager(run, CFG.train) as manager, pytest.raises(ValueError, match="another architecture"):
    checkpoint.restore(manager, ABSTRACT, other, ONE)
  lines = [line for line in str(error.value).splitlines() if line.startswith("  - ")]
  assert lines == ["  - model.width: 16 in the checkpoint, 32 in the config",
                   "  - model.rope_axes: [2, 2, 4] in the checkpoint, [4, 6, 6] in the config",
                   "  - optimizer.kind: adamw in the checkpoint, muon in the config"]


def test_how_the_model_runs_may_differ(run):
  model = dataclasses.replace(CFG.model, dtype="bfloat16", remat="none", attention="chunked")
  optimizer = dataclasses.replace(CFG.optimizer, rate=0.5)
  checkpoint.check_architecture(run, dataclasses.replace(CFG, model=model, optimizer=optimizer))


@pytest.mark.parametrize("name", [".", "checkpoints", "checkpoints/2"])
def test_sampling_gets_the_config_and_the_average(run, name):
  cfg, params = checkpoint.restore_for_sampling(run / name)
  assert cfg == CFG
  assert_same(params, random_state(2, seed=2).ema)


def test_sampling_may_be_given_a_mesh_or_an_older_step(run):
  _, params = checkpoint.restore_for_sampling(run / "checkpoints" / "1", mesh_of(1, 4, 2))
  assert_same(params, random_state(1, seed=1).ema)
  assert len(params["output"]["modulation"]["kernel"].addressable_shards[0].data) == 16 // 8


def test_a_config_survives_json(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
  assert saved_config.config_from_json(tmp_path / "config.json") == CFG


def test_a_config_from_before_a_key_came_is_still_read():
  older = config.to_dict(CFG)
  del older["encoders"]["image"], older["encoders"]["weights"]
  assert saved_config.config_from_json(older) == CFG
  older["sample"]["guidance"] = 3.5  # the scale was all there was
  guidance = saved_config.config_from_json(older).sample.guidance
  assert (guidance.rule, guidance.scale, guidance.interval) == ("classifier_free", 3.5, (0.0, 1.0))


def test_whatever_key_came_since_the_first_runs_an_early_config_is_still_read():
  early = json.loads((pathlib.Path(__file__).parent / "early_config.json").read_text())  # of configs/smoke.py at 0ac3387
  cfg = saved_config.config_from_json(early)
  assert (cfg.seed, cfg.train.steps, cfg.sample.guidance.scale, cfg.sample.image_shift) == (0, 1200, 2.0, 8.0)
  assert not saved_config.differences(early, cfg)


def test_a_key_may_come_later_inside_another(monkeypatch):
  older = json.loads(json.dumps(config.to_dict(CFG)))
  del older["sample"]["cache"]["order"], older["sample"]["guidance"]["together"]
  dual = older["model"]["cross_attention"].pop("dual")
  monkeypatch.setitem(saved_config.CAME_LATER, "model", dict(cross_attention=dict(dual=dual)))
  assert saved_config.config_from_json(older) == CFG and not saved_config.differences(older, CFG)
  older["model"]["cross_attention"]["dual"] = not dual
  assert len(saved_config.differences(older, CFG)) == 1
