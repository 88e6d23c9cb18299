"""A teacher whose features are kept at the grid of the model's video tokens, where that is coarser than its own.

Alignment compares features token by token, so it would reduce them to that grid at every step (`model/alignment.py`): done before
they are stored, the targets are the same and the disk holds less.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Reduced:
  """The teacher `teacher`; `cell` is (height, width) in pixels of one video token."""

  teacher: Any
  cell: tuple[int, int] = struct.field(pytree_node=False)

  @property
  def name(self) -> str:
    return self.teacher.name

  @property
  def version(self) -> str:
    return self.teacher.version

  @property
  def dim(self) -> int:
    return self.teacher.dim

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the features of a video: the tokens' or its own, whichever has fewer cells."""
    tokens = (height // self.cell[0], width // self.cell[1])
    return min(self.teacher.grid(height, width), tokens, key=math.prod)

  def encode(self, video, times) -> Array:
    """Features (B, len(times), h, w, dim) float32; linear in space, as `alignment.to_token_grid` takes them."""
    features = self.teacher.encode(video, times)
    shape = (*features.shape[:2], *self.grid(*video.shape[2:4]), self.dim)
    return jax.image.resize(features.astype(jnp.float32), shape, "linear", antialias=True)
