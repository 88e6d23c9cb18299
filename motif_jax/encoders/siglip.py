"""The SigLIP vision tower that lies in the text encoder's checkpoint: image tokens for image-to-video (model.md section 8)."""

import jax.numpy as jnp
from flax import struct
from jax import Array

from motif_jax.encoders import frames, vit
from motif_jax.encoders.vit import VitConfig

RELEASED = VitConfig(  # 416,866,032 parameters, 4,096 tokens
    width=1152, depth=27, heads=16, hidden=4304, patch=(1, 14, 14), side=896, table=64, class_token=False, layer_scale=False,
    tanh_gelu=True, eps=1e-6, dtype="bfloat16")


def apply(params: dict, cfg: VitConfig, pixels: Array) -> Array:
  """Tokens (B, h w, D) in cfg.dtype of normalised pictures (B, side, side, 3)."""
  x = vit.patches(params, cfg, pixels[:, None])
  return vit.run(params, cfg, x + params["places"]["table"].astype(x.dtype))


@struct.dataclass
class Siglip:
  """The image encoder: weights are the leaves of this tree, all else is static."""

  params: dict
  cfg: VitConfig = struct.field(pytree_node=False)
  version: str = struct.field(pytree_node=False)
  name: str = struct.field(pytree_node=False, default="siglip")

  @property
  def dim(self) -> int:
    return self.cfg.width

  @property
  def tokens(self) -> int:
    return self.cfg.grid**2

  def encode(self, images) -> Array:
    """Tokens (B, tokens, dim) float32 of pictures (B, H, W, 3) in [-1, 1]."""
    square = jnp.clip(frames.stretched(images[:, None], self.cfg.side, method="cubic"), -1, 1)  # a cubic overshoots
    return apply(self.params, self.cfg, frames.normalised(square, frames.HALVES)[:, 0]).astype(jnp.float32)
