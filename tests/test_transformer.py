"""The whole network: properties that need no reference."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.config import Depths
from motif_jax.model import routing, transformer
from motif_jax.model.plan import make_plan
from motif_jax.model.rope import Rope, make_rope, rotate
from tests import tiny
from tests.sensitive import sensitive

B, GRID, TEXT, IMAGE = 2, (2, 6, 8), 5, 3
CFG = dataclasses.replace(tiny.make_config().model, image_dim=9)
LENGTH = 24


def inputs():
  keys = jax.random.split(jax.random.key(0), 3)
  normal = lambda key, *shape: jax.random.normal(key, (B, *shape))
  return dict(latents=normal(keys[0], *GRID, 2 * CFG.latent_channels + 1), t=jnp.array([0.25, 0.9]),
              text=normal(keys[1], TEXT, CFG.text_dim), text_mask=jnp.arange(TEXT)[None] < jnp.array([[5], [3]]), image=normal(keys[2], IMAGE, CFG.image_dim))


@pytest.fixture(scope="module")
def params():
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, CFG), jax.random.key(0)), 0)


network = jax.jit(transformer.apply, static_argnames=("cfg", "plan"))  # compiled once for the tests that ask the same of it


def velocity(params, cfg=CFG, plan=None, route=None, **changes):
  return network(params, cfg, **inputs() | changes, plan=plan, route=route)


def test_the_velocity_of_fresh_weights_is_zero():
  fresh = transformer.init(jax.random.key(0), CFG)
  assert not jnp.any(velocity(fresh)[0])


def test_a_row_alone_equals_the_row_in_a_batch(params):
  want = velocity(params)[0]
  for row in range(B):
    alone = velocity(params, **{k: v[row:row + 1] for k, v in inputs().items()})[0]
    np.testing.assert_allclose(alone[0], want[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["latents", "t", "text", "text_mask", "image"])
def test_every_input_matters(params, name):
  changed = {"text_mask": jnp.ones((B, TEXT), bool), "image": None, "t": jnp.array([0.3, 0.8])}.get(name, inputs()[name] * 1.5)
  want = velocity(params)[0]
  assert jnp.linalg.norm(velocity(params, **{name: changed})[0] - want) > 1e-3 * jnp.linalg.norm(want)


def test_padding_text_changes_nothing(params):
  given = inputs()
  text = jnp.pad(given["text"], ((0, 0), (0, 4), (0, 0)), constant_values=9.0)
  mask = jnp.pad(given["text_mask"], ((0, 0), (0, 4)))
  np.testing.assert_allclose(velocity(params, text=text, text_mask=mask)[0], velocity(params)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", routing.POLICIES)
def test_keep_all_route_equals_dense(params, policy):
  route = routing.draw(jax.random.key(1), B, LENGTH, keep=1.0, groups=4, policy=policy)
  routed = velocity(params, plan=make_plan(CFG.depths, (1, 3)), route=route)[0]
  np.testing.assert_allclose(routed, velocity(params)[0], rtol=1e-5, atol=1e-6)


def test_a_route_changes_the_result_and_its_choice_matters(params):
  plan = make_plan(CFG.depths, (1, 3))
  routes = [routing.draw(jax.random.key(i), B, LENGTH, keep=0.5, groups=4, policy="random") for i in range(2)]
  dense, *routed = [velocity(params)[0], *(velocity(params, plan=plan, route=route)[0] for route in routes)]
  for a, b in ((dense, routed[0]), (routed[0], routed[1])):
    assert jnp.linalg.norm(a - b) > 1e-3 * jnp.linalg.norm(dense)


def test_bypassed_tokens_enter_the_route_and_leave_it_unchanged(params):
  """Tapped at both ends of a route over all encoder blocks: rejoining puts the tokens of its start back, untouched."""
  cfg = dataclasses.replace(CFG, depths=Depths(2, 2, 0))
  route = routing.draw(jax.random.key(1), B, LENGTH, keep=0.5, groups=4, policy="random")
  _, aux = velocity(params, cfg=cfg, plan=make_plan(cfg.depths, (0, 4), 4), route=route)
  assert aux.tapped.shape == (B, LENGTH // 2, CFG.width)
  # The output layer works token by token, so bypassed tokens come out as if the model had no blocks at all.
  routed = velocity(params, cfg=cfg, plan=make_plan(cfg.depths, (0, 4)), route=route)[0]
  none = velocity(params, cfg=cfg, plan=())[0]
  patches = lambda v: v.reshape(B, 2, 3, 2, 4, 2, -1).swapaxes(3, 4).reshape(B, LENGTH, -1)
  bypassed = lambda v: routing.leave(patches(v), route)[1]
  np.testing.assert_allclose(bypassed(routed), bypassed(none), rtol=1e-5, atol=1e-6)
  assert jnp.abs(patches(routed) - patches(none)).max() > 0.1


def test_the_tap_inside_a_route_holds_the_kept_tokens_in_order(params):
  route = routing.draw(jax.random.key(1), B, LENGTH, keep=0.5, groups=4, policy="random")
  before = velocity(params, plan=make_plan(CFG.depths, None, 1))[1].tapped
  inside = velocity(params, plan=make_plan(CFG.depths, (1, 3), 1), route=route)[1].tapped  # tapped before the route begins
  np.testing.assert_allclose(before, inside, rtol=1e-5, atol=1e-6)
  assert velocity(params, plan=make_plan(CFG.depths, (1, 3), 2), route=route)[1].tapped.shape == (B, LENGTH // 2, CFG.width)


def test_rotation_turns_each_pair_by_position_times_frequency():
  axes, theta, grid = (2, 4, 6), 100.0, (2, 3, 4)
  rope = make_rope(grid, axes, theta)
  x = jax.random.normal(jax.random.key(0), (1, math.prod(grid), 1, sum(axes)))
  turned = rotate(x, rope)
  for token, place in enumerate(np.ndindex(grid)):
    frequencies = [(p, theta ** (-2 * j / d)) for p, d in zip(place, axes) for j in range(d // 2)]
    for pair, (position, frequency) in enumerate(frequencies):
      z = complex(*x[0, token, 0, 2 * pair:2 * pair + 2]) * np.exp(1j * position * frequency)
      np.testing.assert_allclose(turned[0, token, 0, 2 * pair:2 * pair + 2], [z.real, z.imag], rtol=1e-4, atol=1e-5)


def test_rotations_of_kept_tokens_are_theirs():
  route = routing.draw(jax.random.key(1), B, LENGTH, keep=0.5, groups=4, policy="random")
  rope = make_rope((2, 3, 4), CFG.rope_axes, CFG.rope_theta)
  gathered = transformer.gather_rope(rope, route)
  x = jax.random.normal(jax.random.key(0), (B, LENGTH, 2, CFG.head_dim))
  np.testing.assert_allclose(rotate(routing.leave(x, route)[0], gathered), routing.leave(rotate(x, rope), route)[0], rtol=1e-6)
  assert isinstance(gathered, Rope)


def test_patches_go_back_where_they_came_from():
  latents = jax.random.normal(jax.random.key(0), (B, *GRID, CFG.latent_channels))
  patches = transformer.patchify(latents, CFG)
  assert patches.shape == (B, LENGTH, 4 * CFG.latent_channels)
  np.testing.assert_array_equal(transformer.unpatchify(patches, (2, 3, 4), CFG), latents)
  np.testing.assert_array_equal(patches[0, 5, :4], latents[0, 0, 2:4, 2:4, 0].ravel())  # channel slowest


@pytest.mark.parametrize("changes, said", [
    (dict(latents=jnp.zeros((B, 2, 6, 8, 6))), "must be \\(B, F, H, W, 7\\)"),
    (dict(latents=jnp.zeros((B, 2, 5, 8, 7))), "does not divide by the patch"),
    (dict(t=jnp.zeros(3)), "one time in \\[0, 1\\] per sample"),
    (dict(text=jnp.zeros((B, TEXT, 4))), "model.text_dim = 12"),
    (dict(text_mask=jnp.ones((B, 9), bool)), "text_mask"),
    (dict(plan=make_plan(CFG.depths, (1, 2))), "no route was given"),
])
def test_misshapen_input_is_told(params, changes, said):
  with pytest.raises(ValueError, match=said):
    velocity(params, **changes)
