"""An image encoder without weights: the cells of a small copy of the picture, each with where it lies."""

import dataclasses

from einops import rearrange
import jax
import jax.numpy as jnp

from motif_jax.encoders import frames, gradients


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Thumbnail:
  """Tokens of the 4 x 4 cells of 4 x 4 pixels that a picture is shrunk to."""

  name: str = "thumbnail"
  version: str = "1"
  side: int = 16  # pixels of the square
  cell: int = 4  # pixels of a cell

  @property
  def dim(self) -> int:
    return 3 * self.cell**2 + 4 * len(gradients.PLACE_FREQUENCIES)

  @property
  def tokens(self) -> int:
    return (self.side // self.cell) ** 2

  def encode(self, images):
    """Tokens (B, tokens, dim) float32 of pictures (B, H, W, 3) in [-1, 1]."""
    small = frames.stretched(images[:, None], self.side)[:, 0]
    cells = rearrange(small, "b (y h) (x w) c -> b (y x) (h w c)", h=self.cell, w=self.cell)
    place = gradients.place((self.side // self.cell,) * 2).reshape(self.tokens, -1)
    return jnp.concatenate([cells, jnp.broadcast_to(place, (len(cells), *place.shape))], axis=-1)
