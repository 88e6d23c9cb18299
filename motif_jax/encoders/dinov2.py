"""DINOv2 as alignment teacher of the image stage (transformers 5.23.0, `dinov2`; recipe.md section 4).

It sees single frames, stretched to its square.  Its table of places is that of a larger picture (37 x 37 patches), and is resized
to the 16 x 16 patches of 224 pixels, the size that it is mostly used at.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from motif_jax.encoders import frames, vit
from motif_jax.encoders.vit import VitConfig

SIDE = 224


def released(width: int, depth: int, heads: int) -> VitConfig:
  """The config of a published size."""
  return VitConfig(width=width, depth=depth, heads=heads, hidden=4 * width, patch=(1, 14, 14), side=SIDE, table=37,
                   class_token=True, layer_scale=True, tanh_gelu=False, eps=1e-6, dtype="float32")


# Parameters: 22,056,192, 86,579,712 and 304,367,616.  The published files hold one token more, for masking: nothing reads it.
RELEASED = {"S": released(384, 12, 6), "B": released(768, 12, 12), "L": released(1024, 24, 16)}


def apply(params: dict, cfg: VitConfig, pixels: Array) -> Array:
  """Features (B, h, w, D) in cfg.dtype of normalised pictures (B, side, side, 3); without the class token's."""
  x = vit.patches(params, cfg, pixels[:, None])
  first = jnp.broadcast_to(params["class_token"]["value"].astype(x.dtype), (len(x), 1, cfg.width))
  x = jnp.concatenate([first, x], axis=1) + places(params["places"]["table"], cfg).astype(x.dtype)
  return vit.run(params, cfg, x)[:, 1:].reshape(len(x), cfg.grid, cfg.grid, cfg.width)


def places(table: Array, cfg: VitConfig) -> Array:
  """(1 + h w, D) float32: the table (1 + cfg.table^2, D), resized from its grid to that of the pictures."""
  first, rest = jnp.split(table.astype(jnp.float32), [1])
  if cfg.grid != cfg.table:
    weights = cubic(cfg.table, cfg.grid)
    rest = jnp.einsum("yr,xc,rcd->yxd", weights, weights, rest.reshape(cfg.table, cfg.table, -1), precision="highest")
  return jnp.concatenate([first, rest.reshape(-1, cfg.width)])


def cubic(inputs: int, outputs: int) -> np.ndarray:
  """(outputs, inputs) float32, the weights of a cubic resize as torch does it: a = -0.75, ends repeated, no smoothing before."""
  centre = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
  weights = np.zeros((outputs, inputs))
  for offset in range(-1, 3):
    near = np.floor(centre).astype(int) + offset
    x = np.abs(centre - near)
    inner, outer = (1.25 * x - 2.25) * x**2 + 1, -0.75 * (((x - 5) * x + 8) * x - 4)
    np.add.at(weights, (np.arange(outputs), np.clip(near, 0, inputs - 1)), np.where(x <= 1, inner, outer))
  return weights.astype(np.float32)


@struct.dataclass
class DinoV2:
  """The teacher: weights are the leaves of this tree, all else is static."""

  params: dict
  cfg: VitConfig = struct.field(pytree_node=False)
  version: str = struct.field(pytree_node=False)
  name: str = struct.field(pytree_node=False, default="dinov2")

  @property
  def dim(self) -> int:
    return self.cfg.width

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the features of a video of any size."""
    return self.cfg.grid, self.cfg.grid

  def encode(self, video, times) -> Array:
    """Features (B, len(times), h, w, dim) float32 of a video (B, F, H, W, 3) in [-1, 1] at pixel-frame `times` in [0, F - 1]."""
    before, after, _ = frames.neighbours(frames.checked(times, video.shape[1]), video.shape[1])
    seen = np.union1d(before, after)  # no other frame is encoded
    pixels = frames.normalised(frames.stretched(video[:, seen], self.cfg.side), frames.IMAGENET)
    features = apply(self.params, self.cfg, pixels.reshape(-1, *pixels.shape[2:])).astype(jnp.float32)
    features = features.reshape(*pixels.shape[:2], *features.shape[1:])
    return frames.between(features, np.interp(times, seen, np.arange(len(seen))))
