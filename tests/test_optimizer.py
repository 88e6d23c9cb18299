"""Claims about the optimizers: schedule, decay, clipping, and Muon's orthogonal updates per layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from motif_jax import sharding
from motif_jax.config import OptimizerConfig
from motif_jax.train import optimizer as optimizers

CONFIG = OptimizerConfig(kind="adamw", rate=0.5, warmup=4, decay="constant", betas=(0.9, 0.95), weight_decay=0.0, clip=1e9,
                         decay_share=1.0, rates=(), undecayed=(), average="constant", ema=0.9, ema_width=0.1)
LAYERS, WIDTH, HEADS, HEAD = 3, 12, 2, 5


def _change(**changes):
  return dataclasses.replace(CONFIG, **changes)


def _params():
  """A part of the model's tree in which all sizes differ."""
  normal = lambda *shape: jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), jnp.float32)
  attention = {"query": {"kernel": normal(LAYERS, WIDTH, HEADS, HEAD), "bias": normal(LAYERS, HEADS, HEAD)},
               "out": {"kernel": normal(LAYERS, HEADS, HEAD, WIDTH)}, "query_norm": {"scale": normal(LAYERS, HEAD)}}
  single = {"attention": attention, "mlp": {"up": {"kernel": normal(LAYERS, WIDTH, 20)}},
            "modulation": {"kernel": normal(LAYERS, WIDTH, 36), "bias": normal(LAYERS, 36)}}
  return {"model": {"single": single, "video_embed": {"kernel": normal(7, WIDTH), "bias": normal(WIDTH)}},
          "projector": {"first": {"kernel": normal(WIDTH, 9)}}}


def _first_update(cfg, gradients):
  params = _params()
  optimizer = optimizers.make_optimizer(cfg, steps=100)
  return jax.jit(optimizer.update)(gradients, optimizer.init(params), params)[0]


@pytest.mark.parametrize("decay, expected", [
    ("constant", [0.5, 0.5, 0.5]), ("linear", [0.5, 0.25, 0.0]), ("cosine", [0.5, 0.25, 0.0])])
def test_rate_warms_up_to_its_value_and_decays_to_the_end(decay, expected):
  rate = lambda step: float(optimizers.rate(step, _change(decay=decay), steps=104))
  np.testing.assert_allclose([rate(s) for s in (0, 1, 2, 3)], [0.125, 0.25, 0.375, 0.5], rtol=1e-6)
  np.testing.assert_allclose([rate(s) for s in (4, 54, 104)], expected, atol=1e-6)


def test_cosine_is_not_linear():
  cosine, linear = (float(optimizers.rate(29, _change(decay=decay), steps=104)) for decay in ("cosine", "linear"))
  assert cosine > 1.05 * linear


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_weight_decay_acts_on_kernels_alone(kind):
  cfg = _change(kind=kind, weight_decay=0.1, warmup=0)
  updates = _first_update(cfg, jax.tree.map(jnp.zeros_like, _params()))
  for (path, update), (_, param) in zip(jax.tree.leaves_with_path(updates), jax.tree.leaves_with_path(_params())):
    expected = -0.5 * 0.1 * param if path[-1].key == "kernel" else jnp.zeros_like(param)
    np.testing.assert_allclose(update, expected, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_gradients_are_clipped_to_the_global_norm():
  gradients = jax.tree.map(lambda x: 1000 * x, _params())
  optimizer = optimizers.make_optimizer(_change(clip=2.0), steps=100)
  _, state = optimizer.update(gradients, optimizer.init(_params()), _params())
  first_moment = optax.tree.get(state, "mu")
  np.testing.assert_allclose(optax.global_norm(first_moment), (1 - CONFIG.betas[0]) * 2.0, rtol=1e-5)


def _matrices(updates):
  """Name -> (layers, rows, columns) of what Muon updates."""
  single = updates["model"]["single"]
  return {"query": single["attention"]["query"]["kernel"].reshape(LAYERS, WIDTH, HEADS * HEAD),
          "out": single["attention"]["out"]["kernel"].reshape(LAYERS, HEADS * HEAD, WIDTH),
          "up": single["mlp"]["up"]["kernel"]}


def test_muon_updates_are_orthogonal_in_each_layer_alone():
  # Layers differ by a factor of 100: normalised together, the small one would hardly move.
  by_layer = lambda x: x * 100.0 ** -jnp.arange(LAYERS).reshape(-1, *(1,) * (x.ndim - 1))
  gradients = _params()
  gradients["model"]["single"] = jax.tree.map(by_layer, gradients["model"]["single"])
  for name, matrices in _matrices(_first_update(_change(kind="muon", warmup=0, rate=1.0), gradients)).items():
    rows, columns = matrices.shape[1:]
    singular = np.linalg.svd(np.asarray(matrices), compute_uv=False) / (optimizers.MUON_RMS * np.sqrt(max(rows, columns)))
    # Five Newton-Schulz steps bring singular values near 1, not to it.
    assert singular.min() > 0.3 and singular.max() < 1.5, (name, singular)


def test_muon_leaves_the_rest_to_adamw():
  gradients = _params()
  muon, adamw = (_first_update(_change(kind=kind), gradients) for kind in ("muon", "adamw"))
  same = {jax.tree_util.keystr(path, simple=True, separator="/"): bool(jnp.allclose(a, b))
          for (path, a), (_, b) in zip(jax.tree.leaves_with_path(muon), jax.tree.leaves_with_path(adamw))}
  assert {path for path, equal in same.items() if not equal} == {
      "model/single/attention/query/kernel", "model/single/attention/out/kernel", "model/single/mlp/up/kernel"}


def test_the_rate_stays_until_the_last_share_of_the_steps():
  rate = lambda step: float(optimizers.rate(step, _change(decay="linear", decay_share=0.25), steps=104))
  np.testing.assert_allclose([rate(s) for s in (1, 4, 50, 78, 91, 104)], [0.25, 0.5, 0.5, 0.5, 0.25, 0.0], atol=1e-6)


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_rates_by_path_scale_what_moves_and_zero_freezes(kind):
  gradients = _params()
  plain = _change(kind=kind, warmup=0, weight_decay=0.1)
  rates = (("single/attention/(query|out)/kernel", 0.5), ("video_embed/.*", 0.0))
  before, after = (dict(sharding.paths_of(_first_update(cfg, gradients))) for cfg in (plain, dataclasses.replace(plain, rates=rates)))
  factors = {"model/single/attention/query/kernel": 0.5, "model/single/attention/out/kernel": 0.5, "model/video_embed/kernel": 0.0,
             "model/video_embed/bias": 0.0}
  for path, update in before.items():
    assert np.abs(update).max() > 0
    np.testing.assert_allclose(after[path], factors.get(path, 1.0) * update, rtol=1e-5, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_kernels_can_be_left_without_decay(kind):
  cfg = _change(kind=kind, weight_decay=0.1, warmup=0, undecayed=(".*/modulation/kernel", "single/mlp/.*"))
  updates = dict(sharding.paths_of(_first_update(cfg, jax.tree.map(jnp.zeros_like, _params()))))
  assert {path for path, update in updates.items() if np.any(update)} == {
      "model/single/attention/query/kernel", "model/single/attention/out/kernel", "model/video_embed/kernel",
      "projector/first/kernel"}


@pytest.mark.parametrize("change, said", [
    (dict(rates=(("singel/.*", 0.5),)), "optimizer.rates: 'singel/.*' fits no parameter, as .* is one"),
    (dict(rates=(("single/.*", 0.5), (".*/bias", 2.0))), "'single/.*' and '.*/bias' both fit single/attention/query/bias"),
    (dict(undecayed=("video_embed/bias",)), "optimizer.undecayed: 'video_embed/bias' fits no kernel"),
])
def test_patterns_that_fit_nothing_or_twice_are_errors(change, said):
  with pytest.raises(ValueError, match=said):
    optimizers.make_optimizer(_change(**change), steps=1).init(_params())


def test_wrong_name_prints_the_known_ones():
  with pytest.raises(ValueError, match="'adam'; known optimizers: adamw, muon"):
    optimizers.make_optimizer(_change(kind="adam"), steps=1)
