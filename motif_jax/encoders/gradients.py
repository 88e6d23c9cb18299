"""A teacher without weights: what a frozen video encoder gives, from hand-made features (as targets: MaskFeat, arXiv 2112.09133).

Each cell of each frame is described by four blocks, each of L2 norm 1 or less:
  edges   histogram of gradient orientations of luma and two opponent colours, weighted by magnitude (3 x ORIENTATIONS)
  motion  frame difference per colour channel, and the normal flow, the direction in which luma edges move (3 + 2)
  colour  mean colour, and a constant that keeps a grey, flat, still cell from being the zero vector (3 + 1)
  place   cosines and sines of where the cell lies in the clip (3 axes x 2 frequencies x 2); features of learned video encoders
          carry it too, and the backbone, whose RoPE is relative, has no other direct reason to find it out
The whole frame is first stretched to a square, as for a learned teacher (recipe.md section 4).
"""

import dataclasses

from einops import rearrange, reduce
import jax
import jax.numpy as jnp
import numpy as np

ORIENTATIONS = 8  # of undirected edges, over half a turn
PLACE_FREQUENCIES = (1, 2)  # half turns over an axis: the first tells all places apart, the second neighbours better
FLOOR = 0.05  # blocks weaker than this are left weak: normalising them would show noise at full strength
OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]], np.float32) / np.sqrt(np.array([[3], [2], [6]], np.float32))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Gradients:
  """A grid of `size // cell` squared cells per frame; 8 x 8 by default."""

  name: str = "gradients"
  version: str = "2"
  size: int = 32  # pixels of the square
  cell: int = 4  # pixels of a cell

  @property
  def dim(self) -> int:
    return 3 * ORIENTATIONS + 5 + 4 + 6 * len(PLACE_FREQUENCIES)

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the features of a video of any size."""
    return self.size // self.cell, self.size // self.cell

  def encode(self, video, times):
    """Features (B, len(times), h, w, dim) float32 of a video (B, F, H, W, 3) in [-1, 1] at pixel-frame `times` in [0, F - 1]."""
    frames = video.shape[1]
    times = np.asarray(times, np.float32)
    if times.min() < 0 or times.max() > frames - 1:
      raise ValueError(f"times {times.tolist()} must lie in [0, {frames - 1}], the first to the last of {frames} frames.")
    shape = (*video.shape[:2], self.size, self.size, 3)
    square = jax.image.resize(video.astype(jnp.float32), shape, "linear", antialias=True)
    colours = jnp.matmul(square, OPPONENT.T, precision="highest")
    described = [self._edges(colours), self._motion(colours), self._colour(colours)]
    grid = described[0].shape[1:4]
    described.append(jnp.broadcast_to(place(grid), (len(video), *grid, 6 * len(PLACE_FREQUENCIES))))
    features = jnp.concatenate(described, axis=-1)
    # Features exist at every frame; between two of them they are taken linearly.
    before = np.minimum(np.floor(times).astype(int), max(frames - 2, 0))
    after, share = np.minimum(before + 1, frames - 1), (times - before)[:, None, None, None]
    return (1 - share) * features[:, before] + share * features[:, after]

  def _edges(self, colours):
    dy, dx = _slope(colours, 2), _slope(colours, 3)
    turn = jnp.arctan2(dy, dx) / np.pi * ORIENTATIONS  # one unit per bin; an edge and its opposite share a bin
    # Each pixel votes for the two nearest bins, so that a slow turn does not jump.
    distance = jnp.abs((turn[..., None] - np.arange(ORIENTATIONS) + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2)
    votes = jnp.sqrt(jnp.square(dy) + jnp.square(dx))[..., None] * jnp.maximum(0, 1 - distance)
    return _unit(self._pool(rearrange(votes, "b f y x c o -> b f y x (c o)")))

  def _motion(self, colours):
    change, luma = _slope(colours, 1), colours[..., :1]
    # A brighter edge that moves right darkens on its left: change = - velocity * slope, so - change * slope points along it.
    along = jnp.concatenate([-change[..., :1] * _slope(luma, 2), -change[..., :1] * _slope(luma, 3)], axis=-1)
    return _unit(self._pool(jnp.concatenate([change, 4 * along], axis=-1)))

  def _colour(self, colours):
    mean = self._pool(colours)
    return _unit(jnp.concatenate([mean, jnp.full_like(mean[..., :1], 0.5)], axis=-1))

  def _pool(self, pixels):
    return reduce(pixels, "b f (y h) (x w) c -> b f y x c", "mean", h=self.cell, w=self.cell)


def place(grid: tuple[int, ...]) -> np.ndarray:
  """Where each cell of a grid lies, (*grid, 4 len(grid)) float32, of norm 1."""
  axes = np.meshgrid(*((np.arange(size) + 0.5) / size for size in grid), indexing="ij")  # each in (0, 1)
  waves = [wave(np.pi * frequency * axis) for axis in axes for frequency in PLACE_FREQUENCIES for wave in (np.cos, np.sin)]
  return np.stack(waves, axis=-1).astype(np.float32) / np.sqrt(len(grid) * len(PLACE_FREQUENCIES))


def _slope(x, axis):
  """Half the difference of the two neighbours along `axis`, the borders repeated; zero where there is but one entry."""
  last = x.shape[axis] - 1
  ahead = jnp.take(x, np.minimum(np.arange(last + 1) + 1, last), axis=axis)
  behind = jnp.take(x, np.maximum(np.arange(last + 1) - 1, 0), axis=axis)
  return (ahead - behind) / 2


def _unit(block):
  return block / jnp.sqrt(jnp.sum(jnp.square(block), axis=-1, keepdims=True) + FLOOR**2)
