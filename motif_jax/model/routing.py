"""Token routing (TREAD, arXiv 2501.04765): during training a span of blocks sees only some of the video tokens.

Static shapes throughout: the number kept is a Python int, the choice a `top_k`, leaving and rejoining are gathers.  Ids are
local to G equal groups of the sequence, so that with G a multiple of the sequence-parallel degree nothing here communicates,
and the same G gives the same result on any mesh.
"""

import difflib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.mesh import per_device

IDS = ("batch", "video", None)  # the groups (B, G, ...) of a route lie where their tokens lie


class Route(NamedTuple):
  """Which tokens stay on the path, as int32 positions inside each of G groups of the sequence."""

  kept: Array  # (B, G, K // G), sorted: the reference keeps raster order, and attention does not care
  bypass: Array  # (B, G, (L - K) // G) the others, sorted
  restore: Array  # (B, G, L // G) where each token stands in concat([kept, bypass]) of its group


def kept_per_group(length: int, keep: float, groups: int) -> int:
  """Tokens that each group keeps, at least 1; ValueError where the groups do not divide the sequence."""
  if length % groups:
    low = length // groups * groups
    raise ValueError(f"{length} video tokens do not divide into route.groups = {groups} equal groups; choose a bucket with "
                     f"{low or groups} or {low + groups} tokens, or another number of groups.")
  return max(1, round(length // groups * keep))


def random(scores: Array, kept: int) -> Route:
  """A uniform random choice of `kept` of the tokens in every group of every sample."""
  order = jax.lax.top_k(scores, scores.shape[-1])[1]
  return from_ids(jnp.sort(order[..., :kept]), jnp.sort(order[..., kept:]))


def strided(scores: Array, kept: int) -> Route:
  """One token from each of `kept` equal stretches of every group: the same share everywhere in the clip."""
  size = scores.shape[-1]
  edges = jnp.arange(kept + 1) * size // kept
  chosen = edges[:-1] + (scores[..., :kept] * (edges[1:] - edges[:-1])).astype(jnp.int32)
  member = jnp.zeros(scores.shape, bool)
  member = jnp.put_along_axis(member, chosen, True, axis=-1, inplace=False)
  order = jnp.argsort(~member, axis=-1, stable=True)
  return from_ids(order[..., :kept], order[..., kept:])


def from_ids(kept: Array, bypass: Array) -> Route:
  """The `Route` of two complementary sets of positions."""
  order = jnp.concatenate([kept, bypass], axis=-1).astype(jnp.int32)
  return Route(kept.astype(jnp.int32), bypass.astype(jnp.int32), jnp.argsort(order, axis=-1).astype(jnp.int32))


@jax.named_scope("routing")
def draw(key: Array, batch: int, length: int, *, keep: float, groups: int, policy: str) -> Route:
  """A `Route` for `batch` sequences of `length` tokens, by a policy of `POLICIES`.

  A policy is (scores (B, G, L // G) uniform in [0, 1), tokens kept per group) -> `Route`; each device applies it to its groups.
  """
  if policy not in POLICIES:
    close = difflib.get_close_matches(policy, POLICIES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"route.policy is {policy!r}; known policies: {', '.join(POLICIES)}.{hint}")
  kept = kept_per_group(length, keep, groups)
  scores = jax.random.uniform(key, (batch, groups, length // groups))
  return per_device(lambda scores: POLICIES[policy](scores, kept), inputs=(IDS,), outputs=Route(IDS, IDS, IDS))(scores)


def take(x: Array, ids: Array) -> Array:
  """x (B, L, ...) at `ids` (B, G, k), each within its own group of the sequence: (B, G * k, ...)."""
  tokens = _tokens(x)
  return per_device(_take, inputs=(tokens, IDS), outputs=tokens)(x, ids)


def _take(x, ids):
  batch, groups, count = ids.shape
  grouped = x.reshape(batch, groups, -1, *x.shape[2:])
  expanded = ids.reshape(*ids.shape, *(1,) * (x.ndim - 2))
  return jnp.take_along_axis(grouped, expanded, axis=2, mode="promise_in_bounds").reshape(batch, groups * count, *x.shape[2:])


def _tokens(x):
  """The names of the dimensions of tokens (B, L, ...)."""
  return ("batch", "video", *(None,) * (x.ndim - 2))


@jax.custom_vjp
@jax.named_scope("routing")
def leave(x: Array, route: Route) -> tuple[Array, Array]:
  """The kept (B, K, D) and the bypassed (B, L - K, D) tokens of x (B, L, D)."""
  return take(x, route.kept), take(x, route.bypass)


@jax.custom_vjp
@jax.named_scope("routing")
def rejoin(kept: Array, bypass: Array, route: Route) -> Array:
  """All tokens (B, L, D) in their places: the inverse of `leave`."""
  tokens = _tokens(kept)
  return per_device(_rejoin, inputs=(tokens, tokens, IDS), outputs=tokens)(kept, bypass, route.restore)


def _rejoin(kept, bypass, restore):
  batch, groups, _ = restore.shape
  split = [part.reshape(batch, groups, -1, *part.shape[2:]) for part in (kept, bypass)]
  return _take(jnp.concatenate(split, axis=2).reshape(batch, -1, *kept.shape[2:]), restore)


# Leaving and rejoining are inverse permutations, so each one's transpose is the other: the backward pass gathers too, where
# autodiff would scatter with repeated-index semantics.
def _leave_forward(x, route):
  return leave(x, route), route


def _leave_backward(route, gradients):
  return rejoin(*gradients, route), None


def _rejoin_forward(kept, bypass, route):
  return rejoin(kept, bypass, route), route


def _rejoin_backward(route, gradient):
  return *leave(gradient, route), None


leave.defvjp(_leave_forward, _leave_backward)
rejoin.defvjp(_rejoin_forward, _rejoin_backward)


POLICIES = {"random": random, "strided": strided}
