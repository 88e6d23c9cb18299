"""Claims about telemetry: it measures what its names say, leaves the step as it is, and is the same in microbatches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax import mesh as meshes, sharding
from motif_jax.config import MeshConfig
from motif_jax.model import observe
from motif_jax.model.blocks import block_of
from motif_jax.model.rope import make_rope
from motif_jax.train import telemetry
from motif_jax.train.state import TrainState, abstract_state
from motif_jax.train.step import make_train_step, plan_at
from tests import one_step, tiny
from tests.sensitive import sensitive

EMPTY = np.full((1, 12), 0.25, np.float32)


def _batch(cfg):
  """Three of eight captions are dropped; one more is as short, and one that is longer begins as they do."""
  batch = tiny.batch(cfg)
  batch["text"][:3, :1], batch["text_mask"][:4] = EMPTY, np.arange(cfg.data.text_tokens) < 1
  batch["text_mask"][4:, :2] = True
  batch["text"][5, :1], batch["text_mask"][5] = EMPTY, np.arange(cfg.data.text_tokens) < 2
  return batch


@functools.cache
def _step(*, closely):
  """(state before, state after, metrics, telemetry by name) of a step of a small model in which every weight matters.

  The one that measures closely runs in four microbatches, the other in one: neither may change what is done.
  """
  cfg, mesh = one_step.make_config(accumulate=4 if closely else 1), meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  abstract = abstract_state(cfg, one_step.SGD)
  params, ema = (jax.tree.map(np.asarray, sensitive(abstract.params, seed=seed)) for seed in (0, 1))
  state = TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=ema["model"],
                     opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract.opt_state))
  placed = jax.device_put(state, sharding.state_shardings(abstract, mesh))
  how = telemetry.closely(EMPTY) if closely else telemetry.LIGHTLY
  step = make_train_step(cfg, mesh, one_step.SGD, plan=plan_at(cfg, 0), **how)
  after, (measured, told) = step(placed, _batch(cfg))
  return state, jax.device_get(after), jax.device_get(measured), telemetry.named(told)


def test_a_step_that_measures_moves_the_state_as_any_other():
  (_, plain, measured, nothing), (_, closely, same, _) = _step(closely=False), _step(closely=True)
  assert nothing == {} and jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-5), measured, same))
  for (path, x), (_, y) in zip(sharding.paths_of(closely), sharding.paths_of(plain)):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6, err_msg=path)


def test_norms_of_groups_are_those_of_what_the_step_moved():
  before, after, measured, told = _step(closely=True)
  moved = jax.tree.map(lambda new, old: new - old, after.params, before.params)
  flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
  quotient = lambda one, other: np.linalg.norm(flat(one)) / np.linalg.norm(flat(other))
  assert told["update/dual"] == pytest.approx(quotient(moved["model"]["dual"], before.params["model"]["dual"]), rel=1e-3)
  assert told["update/cross"] == pytest.approx(
      quotient(moved["model"]["single"]["cross"], before.params["model"]["single"]["cross"]), rel=1e-3)
  gap = jax.tree.map(lambda x, y: x - y, before.ema["output"], before.params["model"]["output"])
  assert told["ema_distance/output"] == pytest.approx(quotient(gap, before.params["model"]["output"]), rel=1e-4)
  total = math.sqrt(sum(value**2 for name, value in told.items() if name.startswith("gradient/")))
  assert total == pytest.approx(float(measured.gradient_norm.compute()), rel=1e-4)  # each parameter is in one group


def test_each_block_is_told_of_apart():
  told = {name: value for name, value in _step(closely=True)[3].items() if name.count("/") == 2}
  of_all = {f"{name}/{kind}/00" for name in ("residual", "scale", "gate", "logit") for kind in ("dual", "single")}
  assert told.keys() == of_all | {f"cross_{name}/single/00" for name in ("logit", "share", "write")}
  assert all(0.01 < value < 100 for value in told.values())


def test_shares_are_those_of_the_batch():
  told = _step(closely=True)[3]
  assert told["share/caption_dropped"] == 3 / 8
  assert told["share/image_to_video"] in {i / 8 for i in range(1, 8)}


def test_of_a_batch_the_largest_logit_counts_and_of_all_else_the_mean():
  values = jnp.array([[1.0, 2.0], [3.0, 6.0], [2.0, 1.0]])
  told = telemetry.named(telemetry.of_step(
      params={"model": {}}, updates={}, gradients={}, ema={}, blocks={"single": dict(logit=values, cross_logit=values, gate=values)},
      conditioned=jnp.array([True, False, False]), text=None, text_mask=None, empty=None))
  assert (told["logit/single/01"], told["cross_logit/single/00"], told["gate/single/01"]) == (6, 3, 3)
  assert told["share/image_to_video"] == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def block():
  """(parameters, tokens before, tokens after, calls) of a single-stream block with cross-attention, outside of any trace."""
  cfg = tiny.make_config().model
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
  tokens, rope = (normal(3, 12, 16), normal(3, 5, 16)), make_rope((2, 2, 3), cfg.rope_axes, cfg.rope_theta)
  module = block_of("single", cfg)
  given = (tokens, (None, None), normal(3, 16), rope)
  params = sensitive(jax.eval_shape(lambda: module.init(jax.random.key(0), *given))["params"], seed=3)
  after, calls = observe.with_calls(module.apply, {"params": params}, *given)
  return params, tokens, after, calls


def test_the_bound_of_logits_holds_and_is_near(block):
  calls = block[3]
  q, k = (jnp.concatenate([call.outputs[i] for call in calls if call.path == "attention"], axis=1) for i in (0, 1))
  exact = jnp.max(jnp.abs(jnp.einsum("blnd,bsnd->bnls", q, k)), axis=(1, 2, 3)) / math.sqrt(q.shape[-1])
  told = telemetry.of_block(*block)["logit"]
  assert np.all(told >= exact) and np.all(told < 2 * exact)


def test_bounds_are_of_the_longest_of_all_segments_and_the_cross_attention_s_of_its_own_query_and_the_text_s_key(block):
  params, before, after, calls = block
  told, grown = telemetry.of_block(*block), lambda x: 10 * x
  last = lambda path: max(i for i, call in enumerate(calls) if call.path == path)
  changed = lambda i, outputs: telemetry.of_block(
      params, before, after, [*calls[:i], calls[i]._replace(outputs=outputs), *calls[i + 1:]])
  q, k, v = calls[last("attention")].outputs  # of the text
  for outputs in ((grown(q), k, v), (q, grown(k), v)):
    assert np.all(changed(last("attention"), outputs)["logit"] > 3 * told["logit"])
  for norm in ("query_norm", "key_norm"):
    i = last(f"attention/{norm}")
    np.testing.assert_allclose(changed(i, grown(calls[i].outputs))["cross_logit"], 10 * told["cross_logit"], rtol=1e-5)


def test_of_a_block_of_two_streams_the_video_s_modulation_counts_as_the_mean_of_its_branches():
  modulation = lambda path, first: observe.Call(path, (), [jnp.full((2, 1, 4), float(first + i)) for i in range(6)])
  heads = observe.Call("video/attention", (), (jnp.ones((2, 3, 1, 4)),) * 3)
  calls = [modulation("video/modulation", -3), modulation("text/modulation", 100), heads]
  told = telemetry.of_block({"video": {}}, (jnp.ones((2, 3, 4)),), (jnp.ones((2, 3, 4)),), calls)
  assert told["scale"].tolist() == [1.5, 1.5] and told["gate"].tolist() == [1.5, 1.5]  # of -2 and 1, of -1 and 2


def test_gate_and_scale_are_those_of_the_modulation_and_the_share_is_of_what_cross_attention_is_added_to(block):
  told, calls = telemetry.of_block(*block), {call.path: call for call in block[3]}
  _, scale, gate = calls["modulation"].outputs
  mean = lambda x: np.mean(np.abs(x), axis=(1, 2))
  share = telemetry.norm(calls["cross"].outputs) / telemetry.norm(calls["cross"].inputs[0])
  for name, expected in (("scale", mean(scale)), ("gate", mean(gate)), ("cross_share", share)):
    np.testing.assert_allclose(told[name], expected, rtol=1e-5, err_msg=name)


def test_the_write_is_how_far_the_block_would_move_the_video_without_cross_attention(block):
  params, before, after, calls = block
  cfg = tiny.make_config().model
  silent = {**params, "cross": jax.tree.map(jnp.zeros_like, params["cross"])}
  cond = next(call for call in calls if call.path == "modulation").inputs[0]
  rope = make_rope((2, 2, 3), cfg.rope_axes, cfg.rope_theta)
  without = block_of("single", cfg).apply({"params": silent}, before, (None, None), cond, rope)
  expected = telemetry.norm(after[0] - without[0]) / telemetry.norm(before[0])
  told = telemetry.of_block(*block)
  np.testing.assert_allclose(told["cross_write"], expected, rtol=1e-4)
  assert np.all(told["cross_write"] > 0.01)
  np.testing.assert_allclose(telemetry.of_block(silent, before, without, calls)["residual"],
                             np.sqrt(np.mean(np.square(without[0]), axis=(1, 2))), rtol=1e-5)
