"""Decoding a large frame tile by tile, with overlaps blended: an approximation whose working memory is that of one tile.

As diffusers' `enable_tiling` of AutoencoderKLWan, tile for tile: edges of tiles see zeros where the frame goes on, and attention
its own tile alone, so that the result is near the whole frame's and not equal to it.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Tiles of `size` pixels (height, width), one beginning every `stride` pixels."""

  size: tuple[int, int] = (256, 256)
  stride: tuple[int, int] = (192, 192)

  def check(self, pixels: int) -> None:
    """ValueError unless tiles begin and end between latents of `pixels` pixels, and no pixel lies between two tiles."""
    if any(n % pixels or n < 1 for n in (*self.size, *self.stride)) or any(a > b for a, b in zip(self.stride, self.size)):
      raise ValueError(f"tiles of {self.size} pixels every {self.stride} do not fit: expected multiples of {pixels}, and strides "
                       f"no larger than the tiles, as {(32 * pixels,) * 2} every {(24 * pixels,) * 2}.")


def decode(whole: Callable[[Array], Array], latents: Array, tiling: Tiling, *, pixels: int) -> Array:
  """The video (B, F, H, W, 3) of latents (B, F', H', W', C), of `pixels` pixels each; `whole` decodes what fits in a tile."""
  tiling.check(pixels)
  height, width = (n // pixels for n in tiling.size)
  if latents.shape[2] <= height and latents.shape[3] <= width:
    return whole(latents)
  rows, columns = (range(0, n, stride // pixels) for n, stride in zip(latents.shape[2:4], tiling.stride))
  tiles = {(y, x): latents[:, :, y:y + height, x:x + width] for y in rows for x in columns}
  return _joined(_each(whole, tiles), rows, columns, tiling)


def _each(whole, tiles):
  """`tiles` decoded, one after another; those at the lower and right edge may be smaller, and make programs of their own."""
  decoded = {}
  for shape in dict.fromkeys(tile.shape for tile in tiles.values()):
    places = [place for place, tile in tiles.items() if tile.shape == shape]
    decoded |= zip(places, jax.lax.map(whole, jnp.stack([tiles[place] for place in places])))
  return decoded


def _joined(tiles, rows, columns, tiling):
  """One video of overlapping ones: the beginning of each fades in over the end of the one above, then of the one to the left."""
  faded, lines = {}, []
  for i, y in enumerate(rows):
    for j, x in enumerate(columns):
      tile = tiles[y, x]
      if i:
        tile = _fade(faded[rows[i - 1], x], tile, tiling.size[0] - tiling.stride[0], axis=2)
      if j:
        tile = _fade(faded[y, columns[j - 1]], tile, tiling.size[1] - tiling.stride[1], axis=3)
      faded[y, x] = tile
    lines.append(jnp.concatenate([faded[y, x][:, :, :tiling.stride[0], :tiling.stride[1]] for x in columns], axis=3))
  return jnp.concatenate(lines, axis=2)


def _fade(before, tile, overlap, *, axis):
  """`tile` whose first `overlap` pixels along `axis` go over from the last ones of `before`."""
  overlap = min(overlap, tile.shape[axis])  # the last tiles may be smaller, and never larger than those before
  share = jnp.expand_dims(jnp.arange(overlap) / max(overlap, 1), range(1, tile.ndim - axis))
  end = jax.lax.slice_in_dim(before, before.shape[axis] - overlap, None, axis=axis)
  begin, rest = jnp.split(tile, [overlap], axis=axis)
  return jnp.concatenate([end * (1 - share) + begin * share, rest], axis=axis)
