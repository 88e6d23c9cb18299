"""Three-axis rotary position embedding on the grid of video tokens (model.md section 1.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Rope(NamedTuple):
  """Cosine and sine of each token's angles, float32, (L, dh / 2), or (B, K, dh / 2) once a route has gathered them."""

  cos: Array
  sin: Array


@jax.named_scope("rope")
def make_rope(grid: tuple[int, int, int], axes: tuple[int, int, int], theta: float) -> Rope:
  """The rotations of a (frames, height, width) token grid, row-major: angle = position * theta^(-2j / axis width).

  The per-axis tables are made in float64, as the reference does: in float32 they are off by up to 2.6e-6 at position 80.
  Only these small tables become constants of the compiled step; the (L, dh / 2) product is made on the device.
  """
  cos, sin = [], []
  for axis, (size, width) in enumerate(zip(grid, axes)):
    frequency = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angle = np.arange(size, dtype=np.float64)[:, None] * frequency
    shape = [1, 1, 1, width // 2]
    shape[axis] = size
    for parts, function in ((cos, np.cos), (sin, np.sin)):
      table = jnp.asarray(function(angle).astype(np.float32)).reshape(shape)
      parts.append(jnp.broadcast_to(table, (*grid, width // 2)))
  length = int(np.prod(grid))
  return Rope(*(jnp.concatenate(parts, axis=-1).reshape(length, -1) for parts in (cos, sin)))


@jax.named_scope("rope")
def rotate(x: Array, rope: Rope) -> Array:
  """x (B, L, N, dh) with each interleaved feature pair rotated by its token's angle; float32 inside, x's dtype outside."""
  even, odd = jnp.moveaxis(x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2), -1, 0)
  cos, sin = rope.cos[..., :, None, :], rope.sin[..., :, None, :]  # one head axis for all heads
  return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape).astype(x.dtype)
