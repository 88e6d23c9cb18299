"""Exact attention over tokens that lie on several devices (sequence parallelism), in `jax.shard_map`.

The n devices of the mesh axis "sequence" form n = heads-degree x keys-degree, the first dividing the number of heads: 8 devices
and 12 heads make 4 x 2.  Groups of heads-degree neighbours trade tokens for heads in an all-to-all (as in DeepSpeed-Ulysses,
arXiv 2309.14509); what is left of the degree gathers keys and values.  Each device then computes whole softmax rows, of its
share of the queries and of the heads, with any backend: nothing is approximated and no partial softmax is merged.

Spread segments (video, decoder, encoder tokens) are cut over "sequence"; the others (text, image) are whole on every device,
which takes its heads of them without a word to anyone.  Whole segments stand behind the spread ones, so that padding is at the
tail, where the fast kernels accept it.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from jax import Array

AXIS = "sequence"


def degrees(devices: int, heads: int) -> tuple[int, int]:
  """(heads-degree, keys-degree) of `devices`: the largest heads-degree that divides both, to gather the fewest keys."""
  by_heads = math.gcd(devices, heads)
  return by_heads, devices // by_heads


def attend_spread(local: Callable, queries: tuple[Array, ...], keys: tuple[Array, ...], values: tuple[Array, ...],
                  spread: tuple[bool, ...], devices: int) -> tuple[Array, ...]:
  """Self-attention of segments of which some are `spread` over the devices; called inside `shard_map` with each one's parts.

  Args:
    local: (q (B, L, N, D), k, v (B, S, N, D)) -> (B, L, N, D), on any number of heads.
    queries, keys, values: a (B, length, N, D) per segment, the spread ones first; length is the device's share of them.  The
      last segments may have no queries.
  """
  assert sorted(spread, reverse=True) == list(spread), "spread segments stand before whole ones"
  heads = queries[0].shape[2]
  exchange = _Exchange(devices, heads)
  count, asking = sum(spread), sum(spread[:len(queries)])
  lengths = [q.shape[1] for q in queries]

  # One message for queries, keys and values of all spread segments.  Keys of one sample are a set: their order is free.
  pack = lambda parts, *which: jnp.stack([jnp.concatenate(part[slice(*which)], axis=1) for part in parts])
  q, k, v = exchange.to_heads(pack((queries, keys, values), asking))
  if asking < count:  # and another one for the keys and values of those that have no queries
    more = exchange.to_heads(pack((keys, values), asking, count))
    k, v = (jnp.concatenate(both, axis=1) for both in zip((k, v), more))
  k, v = exchange.all_keys(jnp.stack([k, v]))
  own = [[exchange.own_heads(x) for x in part[count:]] for part in (queries, keys, values)]
  q, k, v = (jnp.concatenate([x, *rest], axis=1) if rest else x for x, rest in zip((q, k, v), own))

  out = local(q, k, v)
  start = exchange.heads_degree * sum(lengths[:asking])
  ends = [start + sum(lengths[asking:][:i]) for i in range(len(lengths) - asking)]  # where each whole segment begins
  moved = exchange.to_tokens(out[:, :start])
  whole = [exchange.all_heads(out[:, end:end + n]) for end, n in zip(ends, lengths[asking:])]
  cuts = [sum(lengths[:i]) for i in range(1, asking)]
  return *jnp.split(moved, cuts, axis=1), *whole


class _Exchange:
  """The collectives along "sequence" of one attention; tensors are (..., B, length, N, D)."""

  def __init__(self, devices: int, heads: int):
    self.heads_degree, keys_degree = degrees(devices, heads)
    h = self.heads_degree
    self.head_groups = [list(range(i * h, (i + 1) * h)) for i in range(keys_degree)]  # neighbours, who trade tokens for heads
    self.key_groups = [list(range(i, devices, h)) for i in range(h)]  # who hold the same heads of different tokens

  def to_heads(self, x):
    """(..., length / n, N, D) -> (..., length / keys-degree, N / heads-degree, D)."""
    return jax.lax.all_to_all(x, AXIS, x.ndim - 2, x.ndim - 3, axis_index_groups=self.head_groups, tiled=True)

  def to_tokens(self, x):
    """The inverse of `to_heads`."""
    return jax.lax.all_to_all(x, AXIS, x.ndim - 3, x.ndim - 2, axis_index_groups=self.head_groups, tiled=True)

  def all_keys(self, x):
    """(..., length / keys-degree, N', D) -> (..., length, N', D)."""
    if len(self.head_groups) == 1:
      return x
    return jax.lax.all_gather(x, AXIS, axis=x.ndim - 3, axis_index_groups=self.key_groups, tiled=True)

  def own_heads(self, x):
    """The heads of a whole segment (B, length, N, D) that this device computes, (B, length, N / heads-degree, D)."""
    size = x.shape[2] // self.heads_degree
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) % self.heads_degree * size, size, axis=2)

  def all_heads(self, x):
    """The inverse of `own_heads`."""
    return jax.lax.all_gather(x, AXIS, axis=2, axis_index_groups=self.head_groups, tiled=True)
