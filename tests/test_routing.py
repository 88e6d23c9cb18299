"""Token routing: every policy of the dict is held to the same properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.model import routing

BATCH, LENGTH, GROUPS, KEEP, WIDTH = 3, 48, 4, 0.6, 5
EVERY_POLICY = pytest.mark.parametrize("policy", routing.POLICIES)


def draw(policy, seed=0, keep=KEEP):
  return routing.draw(jax.random.key(seed), BATCH, LENGTH, keep=keep, groups=GROUPS, policy=policy)


def tokens():
  return jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH))


@EVERY_POLICY
def test_each_token_is_kept_or_bypassed_once(policy):
  route = draw(policy)
  both = np.sort(np.concatenate([route.kept, route.bypass], axis=-1), axis=-1)
  np.testing.assert_array_equal(both, np.broadcast_to(np.arange(LENGTH // GROUPS), both.shape))


@EVERY_POLICY
def test_the_kept_share_is_static_and_ids_are_sorted(policy):
  route = draw(policy)
  assert route.kept.shape == (BATCH, GROUPS, round(LENGTH // GROUPS * KEEP))
  assert (np.diff(route.kept, axis=-1) > 0).all() and (np.diff(route.bypass, axis=-1) > 0).all()


@EVERY_POLICY
@pytest.mark.parametrize("keep", [0.01, 0.5, 1.0])
def test_leaving_and_rejoining_is_the_identity(policy, keep):
  x, route = tokens(), draw(policy, keep=keep)
  np.testing.assert_array_equal(routing.rejoin(*routing.leave(x, route), route), x)


@EVERY_POLICY
def test_samples_and_seeds_differ(policy):
  route = draw(policy)
  assert not np.array_equal(route.kept[0], route.kept[1])
  assert not np.array_equal(route.kept, draw(policy, seed=1).kept)
  np.testing.assert_array_equal(route.kept, draw(policy).kept)


@EVERY_POLICY
def test_every_token_is_kept_equally_often(policy):
  keep = 0.5
  route = routing.draw(jax.random.key(0), 4000, 12, keep=keep, groups=2, policy=policy)
  often = np.stack([(np.asarray(route.kept) == i).any(-1).mean((0,)) for i in range(6)])
  np.testing.assert_allclose(often, keep, atol=0.03)


def test_kept_tokens_are_those_at_the_ids_of_their_group():
  x, route = tokens(), draw("random")
  kept, _ = routing.leave(x, route)
  size = LENGTH // GROUPS
  by_hand = [[x[b, g * size + i] for g in range(GROUPS) for i in route.kept[b, g]] for b in range(BATCH)]
  np.testing.assert_array_equal(kept, np.array(by_hand))


def test_the_hand_written_gradient_is_that_of_plain_indexing():
  x, route = tokens(), draw("random")
  size = LENGTH // GROUPS
  flat = lambda ids: (ids + size * jnp.arange(GROUPS)[:, None]).reshape(BATCH, -1)
  rows = jnp.arange(BATCH)[:, None]

  def ours(x):
    kept, bypass = routing.leave(x, route)
    return jnp.sum(jnp.sin(routing.rejoin(kept**2, 3 * bypass, route)) * jnp.cos(x))

  def plain(x):
    out = jnp.zeros_like(x).at[rows, flat(route.kept)].set(x[rows, flat(route.kept)] ** 2)
    out = out.at[rows, flat(route.bypass)].set(3 * x[rows, flat(route.bypass)])
    return jnp.sum(jnp.sin(out) * jnp.cos(x))

  np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(plain)(x), rtol=1e-5, atol=1e-6)


def test_the_backward_pass_of_routing_gathers_and_never_scatters():
  route = draw("random")

  def loss(x):
    kept, bypass = routing.leave(x, route)
    return jnp.sum(routing.rejoin(jnp.sin(kept), bypass, route) ** 2)

  operations = {line.split("=")[1].split("(")[0].split()[-1]
                for line in jax.jit(jax.grad(loss)).lower(tokens()).compile().as_text().splitlines() if " = " in line}
  assert "gather" in operations and not {name for name in operations if "scatter" in name}


def test_groups_that_do_not_divide_the_sequence_are_refused_with_the_nearest():
  with pytest.raises(ValueError, match="48 video tokens do not divide .* 45 or 50"):
    routing.draw(jax.random.key(0), 1, 48, keep=0.5, groups=5, policy="random")


def test_a_wrong_policy_is_told_the_known_ones():
  with pytest.raises(ValueError, match="random.*Did you mean 'random'"):
    routing.draw(jax.random.key(0), 1, 48, keep=0.5, groups=4, policy="randon")
