"""A video codec without weights: a truncated, orthonormal block cosine transform with a causal first frame.

Frames 1.. are cut into blocks of (t, h, w) pixels and 3 colours; each block keeps its `channels` smoothest cosine coefficients.
Frame 0 is coded as a block of t equal frames, alone, so that an image is a video of one frame and a channel means the same in
every latent frame.  The basis is orthonormal, so decoding is its transpose and errors in latents are errors in pixels.
"""

import dataclasses
import functools

from einops import rearrange
import jax
import jax.numpy as jnp
import numpy as np

from motif_jax.encoders.causal_grid import CausalGrid

COLOURS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]], np.float64)  # luma and two opponent colours, (colour, RGB)
PIXEL_POWER = 0.45  # mean square of a pixel of the embedded clips in [-1, 1], which the latent scale brings to 1

# How late a coefficient comes in the order of channels: its frequencies as shares of the highest one, summed, plus a step for
# chroma.  It needs no table of measured energies, and on the embedded clips the registered presets keep 0.1 to 0.6 dB less than
# with one (1.3 with 48 channels).
TIME_COST, CHROMA_COST = 0.7, 0.1


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BlockDCT(CausalGrid):
  """Blocks of `strides` pixels, of whose 3 t h w coefficients `channels` are kept."""

  name: str = "block_dct"
  strides: tuple[int, int, int] = (4, 4, 4)
  channels: int = 24
  version: str = "1"

  def encode(self, video):
    """Latents (B, F', H', W', C) float32, of about unit mean square, of a video (B, F, H, W, 3) in [-1, 1]."""
    self.grid(*video.shape[1:4])
    t, h, w = self.strides
    # Repeating frame 0 fills its block: of its coefficients only those constant in time are not zero.
    video = jnp.concatenate([jnp.repeat(video[:, :1], t, axis=1), video[:, 1:]], axis=1)
    blocks = rearrange(video.astype(jnp.float32), "b (f t) (y h) (x w) c -> b f y x (t h w c)", t=t, h=h, w=w)
    return jnp.matmul(blocks, basis(self.strides, self.channels), precision="highest") * self._scale

  def decode(self, latents):
    """The video (B, F, H, W, 3) of latents (B, F', H', W', C); values may leave [-1, 1] a little."""
    t, h, w = self.strides
    blocks = jnp.matmul(latents.astype(jnp.float32) / self._scale, basis(self.strides, self.channels).T, precision="highest")
    video = rearrange(blocks, "b f y x (t h w c) -> b (f t) (y h) (x w) c", t=t, h=h, w=w, c=3)
    first = jnp.mean(video[:, :t], axis=1, keepdims=True)  # nearest still block: drops what only a moving one may hold
    return jnp.concatenate([first, video[:, t:]], axis=1)

  @property
  def _scale(self) -> float:
    # One scale for all channels: scaling each by its own energy was measured to train worse, because it blows up fine detail.
    return (self.channels / (3 * np.prod(self.strides) * PIXEL_POWER)) ** 0.5


@functools.cache
def basis(block: tuple[int, int, int], channels: int) -> np.ndarray:
  """Orthonormal columns (t h w 3, C) float32: cosine products over (time, height, width, colour), the smoothest first."""
  t, h, w = block
  colours = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
  full = np.kron(np.kron(cosines(t), cosines(h)), np.kron(cosines(w), colours))  # a row per coefficient
  time, row, column, colour = np.unravel_index(np.arange(3 * t * h * w), (t, h, w, 3))
  cost = TIME_COST * time / t + row / h + column / w + CHROMA_COST * (colour > 0)
  if channels > len(cost):
    raise ValueError(f"channels is {channels}, expected at most {len(cost)}: a block of {block} pixels has no more coefficients.")
  order = np.argsort(cost.round(6), kind="stable")  # rounded, so that equal costs stay in raster order on any machine
  return full[order[:channels]].T.astype(np.float32)


def cosines(n: int) -> np.ndarray:
  """The orthonormal cosine transform (frequency, sample) of n samples (DCT-II)."""
  frequency, sample = np.arange(n)[:, None], np.arange(n)
  table = np.sqrt(2 / n) * np.cos(np.pi * frequency * (2 * sample + 1) / (2 * n))
  table[0] /= np.sqrt(2)
  return table

