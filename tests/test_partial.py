"""Claims about starting a stage from another stage's checkpoint."""

import jax
import numpy as np
import pytest

from motif_jax import config, sharding
from motif_jax.train import checkpoint, partial
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import abstract_state
from tests.small_checkpoints import CFG, mesh_of, random_state, saved

TEXT = ("model/text_embed/up/kernel",)  # all that knows the width of the text features


def _config(**changes):
  c = config.to_dict(CFG)
  for path, value in changes.items():
    section, key = path.split("__")
    c[section][key] = value
  return config.from_config_dict(c)


def _restored(path, cfg, mesh=(1, 1, 1), **options):
  optimizer = make_optimizer(cfg.optimizer, steps=cfg.train.steps)
  state, changes = partial.restore_partial(path, cfg, mesh_of(*mesh), optimizer, **options)
  assert jax.tree.structure(state) == jax.tree.structure(abstract_state(cfg, optimizer))
  return dict(sharding.paths_of(state)), changes


def _saved_leaves():
  return dict(sharding.paths_of(jax.device_get(random_state(2, seed=2))))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return saved(tmp_path_factory.mktemp("stage"), 2)


def test_a_stage_of_the_same_shapes_keeps_all_but_the_step_and_the_schedule(run):
  got, changes = _restored(run, CFG, mesh=(1, 4, 2))
  assert not changes.new and not changes.dropped and changes.optimizer[1] == 0
  restarted = {name for name in got if not np.array_equal(got[name], _saved_leaves()[name])}
  assert restarted == {"step", "opt_state/1/2/count"} and not any(np.any(got[name]) for name in restarted)


def test_a_parameter_of_another_shape_is_an_error_that_names_it(run):
  with pytest.raises(ValueError, match=r"1 parameters have other shapes") as error:
    _restored(run, _config(model__text_dim=9))
  assert "  - model/text_embed/up/kernel: (12, 16) in the checkpoint, (9, 16) in the config" in str(error.value)


def test_a_renewed_parameter_is_new_everywhere_and_nothing_else_is(run):
  got, changes = _restored(run, _config(model__text_dim=9), renew=(r"model/text_embed/up/.*",))
  before, new = _saved_leaves(), {name for name in got if name.endswith(TEXT[0].removeprefix("model/"))}
  assert tuple(changes.new) == TEXT and len(new) == 4  # raw, average, two moments
  assert changes.optimizer[1] == 2 and "  new: model/text_embed/up/kernel" in changes.lines()
  for name in set(got) - new - {"step", "opt_state/1/2/count"}:
    np.testing.assert_array_equal(got[name], before[name], err_msg=name)
  fresh = got["params/model/text_embed/up/kernel"]
  assert fresh.shape == (9, 16) and np.any(fresh) and np.array_equal(fresh, got["ema/text_embed/up/kernel"])
  assert not np.any(got["opt_state/1/0/mu/model/text_embed/up/kernel"])


def test_what_the_new_stage_lacks_is_dropped_and_told(run):
  cross = dict(CFG.model.cross_attention.__dict__, kind="none", query_norm="none")
  _, changes = _restored(run, _config(model__cross_attention=cross))
  assert not changes.new and changes.dropped and all("/cross/" in name for name in changes.dropped)
  assert f"  dropped: {changes.dropped[0]}" in changes.lines()


def test_the_optimizer_starts_new_on_request(run):
  got, changes = _restored(run, CFG, keep_optimizer=False)
  assert changes.optimizer[0] == 0 and len(changes.kept) > 10
  assert not any(np.any(leaf) for name, leaf in got.items() if name.startswith("opt_state/"))


def test_weights_alone_start_a_stage_with_their_own_average(tmp_path):
  weights = jax.device_get(random_state(2).ema)
  checkpoint.save_weights(tmp_path, weights, CFG)
  got, changes = _restored(tmp_path, CFG)
  assert not changes.new and not changes.dropped and changes.optimizer[0] == 0
  for name, leaf in sharding.paths_of(weights):
    np.testing.assert_array_equal(got[f"params/model/{name}"], leaf)
    assert np.array_equal(got[f"ema/{name}"], leaf) and got[f"ema/{name}"] is not got[f"params/model/{name}"]
