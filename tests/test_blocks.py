"""Every kind of block, and stacks of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.config import CrossAttentionConfig
from motif_jax.model import blocks
from motif_jax.model.rope import make_rope
from motif_jax.model.stack import init_stack, run_span
from tests import tiny
from tests.sensitive import sensitive

CFG = dataclasses.replace(tiny.make_config().model, cross_attention=CrossAttentionConfig("shared", "scale", dual=True))
B, GRID, TEXT = 2, (2, 2, 3), 5
LENGTH = 12
EVERY_BLOCK = pytest.mark.parametrize("kind", blocks.BLOCKS)


def case(kind):
  """(parameters of a stack, tokens, masks, cond, rope) with sizes that all differ."""
  keys = jax.random.split(jax.random.key(0), 4)
  second = LENGTH if kind == "decoder" else TEXT
  tokens = tuple(jax.random.normal(k, (B, n, CFG.width)) for k, n in zip(keys, (LENGTH, second)))
  mask = None if kind == "decoder" else jnp.arange(TEXT)[None] < jnp.array([[5], [2]])
  params = sensitive(init_stack(keys[2], kind, CFG), 1)
  return params, tokens, (None, mask), jax.random.normal(keys[3], (B, CFG.width)), make_rope(GRID, CFG.rope_axes, CFG.rope_theta)


@functools.partial(jax.jit, static_argnames=("kind", "cfg", "start", "stop"))
def run(kind, params, *args, cfg=CFG, start=0, stop=2):
  return run_span(params, cfg, kind, start, stop, *args)[0]


@EVERY_BLOCK
def test_shapes_and_dtypes_are_kept(kind):
  params, tokens, *rest = case(kind)
  for dtype in (jnp.float32, jnp.bfloat16):
    cfg = dataclasses.replace(CFG, dtype=jnp.dtype(dtype).name)
    out = run(kind, params, tuple(x.astype(dtype) for x in tokens), *rest, cfg=cfg)
    assert [(x.shape, x.dtype) for x in out] == [(x.shape, dtype) for x in tokens]


@EVERY_BLOCK
def test_a_block_as_initialised_is_the_identity(kind):
  _, tokens, *rest = case(kind)
  params = init_stack(jax.random.key(3), kind, CFG)
  for x, y in zip(tokens, run(kind, params, tokens, *rest)):
    np.testing.assert_array_equal(x, y)


@EVERY_BLOCK
def test_every_parameter_gets_a_gradient(kind):
  params, *args = case(kind)
  gradients = jax.grad(lambda p: sum(jnp.sum(jnp.sin(x)) for x in run(kind, p, *args)))(params)
  dead = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradients)
          if not all(jnp.abs(layer).max() > 1e-7 for layer in g) and "['key']['bias']" not in jax.tree_util.keystr(path)]
  assert not dead


@EVERY_BLOCK
def test_two_spans_in_turn_equal_one(kind):
  params, tokens, *rest = case(kind)
  in_turn = run(kind, params, run(kind, params, tokens, *rest, stop=1), *rest, start=1)
  for x, y in zip(run(kind, params, tokens, *rest), in_turn):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_unrolling_the_depth_changes_no_gradient():
  params, *args = case("single")
  loss = lambda p, unroll: sum(jnp.sum(jnp.sin(x)) for x in run("single", p, *args, cfg=dataclasses.replace(CFG, unroll=unroll)))
  one, two = (jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, unroll) for unroll in (1, 2))
  assert str(one) != str(two)
  for a, b in zip(jax.tree.leaves(jax.grad(loss)(params, 1)), jax.tree.leaves(jax.grad(loss)(params, 2))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@EVERY_BLOCK
def test_rematerialisation_changes_no_gradient(kind):
  params, *args = case(kind)

  def gradient(remat):
    cfg = dataclasses.replace(CFG, remat=remat)
    return jax.grad(lambda p: sum(jnp.sum(jnp.sin(x)) for x in run(kind, p, *args, cfg=cfg)))(params)

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient("none"), gradient("block"))


@pytest.mark.parametrize("kind", ["dual", "single"])
def test_padding_text_changes_nothing(kind):
  params, (video, text), masks, *rest = case(kind)
  padded = jnp.pad(text, ((0, 0), (0, 3), (0, 0)), constant_values=7.0)
  mask = jnp.pad(masks[1], ((0, 0), (0, 3)))
  want = run(kind, params, (video, text), masks, *rest)[0]
  np.testing.assert_allclose(run(kind, params, (video, padded), (None, mask), *rest)[0], want, rtol=1e-5, atol=1e-5)


def test_context_cut_into_two_segments_is_the_same_context():
  """Image and text tokens share weights, so where one ends matters to cross-attention alone."""
  cfg = dataclasses.replace(CFG, cross_attention=CrossAttentionConfig("none", "none", dual=False))
  params = sensitive(init_stack(jax.random.key(0), "dual", cfg), 1)
  _, (video, text), masks, *rest = case("dual")
  whole = run("dual", params, (video, text), masks, *rest, cfg=cfg)
  parts = run("dual", params, (video, text[:, :2], text[:, 2:]), (None, masks[1][:, :2], masks[1][:, 2:]), *rest, cfg=cfg)
  np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(jnp.concatenate(parts[1:], axis=1), whole[1], rtol=1e-5, atol=1e-5)


def test_decoder_positions_are_those_of_the_first_half_alone():
  """Permuting the encoder half's tokens leaves the first half as it was: they carry no position."""
  params, (first, second), masks, *rest = case("decoder")
  want = run("decoder", params, (first, second), masks, *rest)[0]
  got = run("decoder", params, (first, second[:, ::-1]), masks, *rest)[0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  moved = run("decoder", params, (first[:, ::-1], second), masks, *rest)[0]
  assert jnp.abs(moved[:, ::-1] - want).max() > 1e-2
