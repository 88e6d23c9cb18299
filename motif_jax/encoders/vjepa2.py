"""The V-JEPA 2 encoder as alignment teacher (model.md section 7; transformers 5.23.0, `vjepa2`; recipe.md section 4).

The whole frame is stretched to the teacher's square: its own centre crop would cut the sides off and mismatch places.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from motif_jax.encoders import frames, vit
from motif_jax.encoders.vit import VitConfig
from motif_jax.model.rope import Rope

THETA = 10000.0


def released(width: int, depth: int, heads: int, hidden: int, *, side: int = 256) -> VitConfig:
  """The config of a published size."""
  return VitConfig(width=width, depth=depth, heads=heads, hidden=hidden, patch=(2, 16, 16), side=side, table=0, class_token=False,
                   layer_scale=False, tanh_gelu=False, eps=1e-6, dtype="float32")


RELEASED = {  # parameters: 303,885,312, 631,648,000 and 1,012,173,952
    "L": released(1024, 24, 16, 4096),
    "H": released(1280, 32, 16, 5120),
    "g": released(1408, 40, 22, 6144),
}


def apply(params: dict, cfg: VitConfig, pixels: Array) -> Array:
  """Features (B, F / 2, h, w, D) in cfg.dtype of normalised frames (B, F, side, side, 3), F even."""
  tubelets = pixels.shape[1] // cfg.patch[0]
  rope = make_rope((tubelets, cfg.grid, cfg.grid), cfg.head_dim)
  out = vit.run(params, cfg, vit.patches(params, cfg, pixels), rope)
  return out.reshape(len(pixels), tubelets, cfg.grid, cfg.grid, cfg.width)


def make_rope(grid: tuple[int, int, int], head_dim: int) -> Rope:
  """Cosines and sines (L, dh) of the places in a (frames, height, width) grid of tokens, row-major.

  Each axis turns d = 2 (dh // 3 // 2) features, the rest stand still.  A quirk that the weights were trained with: neighbours
  (2i, 2i + 1) are turned together, yet feature e takes frequency e mod (d / 2), so the two take different angles.
  """
  width = 2 * (head_dim // 3 // 2)
  frequency = THETA ** (-np.arange(width // 2) / (width / 2))
  places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 3)  # (L, axis)
  angle = np.concatenate([np.tile(place[:, None] * frequency, 2) for place in places.T], axis=1)
  angle = np.pad(angle, ((0, 0), (0, head_dim - 3 * width)))
  return Rope(*(jnp.asarray(function(angle).astype(np.float32)) for function in (np.cos, np.sin)))


@struct.dataclass
class VJepa2:
  """The teacher: weights are the leaves of this tree, all else is static."""

  params: dict
  cfg: VitConfig = struct.field(pytree_node=False)
  version: str = struct.field(pytree_node=False)
  name: str = struct.field(pytree_node=False, default="vjepa2")

  @property
  def dim(self) -> int:
    return self.cfg.width

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the features of a video of any size."""
    return self.cfg.grid, self.cfg.grid

  def encode(self, video, times) -> Array:
    """Features (B, len(times), h, w, dim) float32 of a video (B, F, H, W, 3) in [-1, 1] at pixel-frame `times` in [0, F - 1]."""
    times = frames.checked(times, video.shape[1])
    pixels = frames.normalised(frames.stretched(video, self.cfg.side), frames.IMAGENET)
    missing = -video.shape[1] % self.cfg.patch[0]
    pixels = jnp.concatenate([pixels, jnp.repeat(pixels[:, -1:], missing, axis=1)], axis=1)  # an odd last frame, twice
    # Tubelet k holds frames 2k and 2k + 1, so its centre is 2k + 0.5.
    tubelet = (times - (self.cfg.patch[0] - 1) / 2) / self.cfg.patch[0]
    return frames.between(apply(self.params, self.cfg, pixels).astype(jnp.float32), tubelet)
