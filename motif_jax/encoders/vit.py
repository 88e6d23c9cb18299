"""What the frozen vision transformers share: patches, pre-norm blocks in one scan, a final norm (model.md sections 7 and 8).

V-JEPA 2, SigLIP and DINOv2 differ in their pixels, in how tokens learn their places, and in the fields of `VitConfig`.
"""

import dataclasses

from einops import rearrange
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.mesh import by_rows
from motif_jax.model.attention import chunked
from motif_jax.model.layers import Linear
from motif_jax.model.rope import Rope


@dataclasses.dataclass(frozen=True)
class VitConfig:
  """What the network is; any size."""

  width: int
  depth: int
  heads: int
  hidden: int  # of the MLP
  patch: tuple[int, int, int]  # pixels of a token: (frames, height, width)
  side: int  # pixels of the square frames it is given
  table: int  # learned places per side of the table; 0: none, places come as rotations
  class_token: bool  # one more token, before the others, with a place of its own
  layer_scale: bool  # a learned factor for each feature of each branch
  tanh_gelu: bool  # the approximation, and not the exact function
  eps: float  # of the layer norms
  dtype: str  # of activations

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  @property
  def grid(self) -> int:
    """Tokens per side of a frame."""
    return self.side // self.patch[1]


def init(key: Array, cfg: VitConfig) -> dict:
  """Parameters, float32, drawn at random: what says their paths and shapes, and what tests run."""
  patch_key, place_key, blocks_key = jax.random.split(key, 3)
  x = jnp.zeros((1, 2, cfg.width))
  features = 3 * cfg.patch[0] * cfg.patch[1] * cfg.patch[2]
  params = {
      "patch_embed": Linear(cfg.width, cfg.dtype).init(patch_key, jnp.zeros((1, features)))["params"],
      "blocks": jax.vmap(lambda k: Block(cfg).init(k, x, None)["params"])(jax.random.split(blocks_key, cfg.depth)),
      "norm": {"scale": jnp.ones(cfg.width), "bias": jnp.zeros(cfg.width)},
  }
  if cfg.table:
    params["places"] = {"table": jax.random.normal(place_key, (cfg.class_token + cfg.table**2, cfg.width))}
  if cfg.class_token:
    params["class_token"] = {"value": jnp.zeros(cfg.width)}
  return params


def patches(params: dict, cfg: VitConfig, pixels: Array) -> Array:
  """Tokens (B, L, D) of frames (B, F, H, W, 3), which patches must divide; in raster order."""
  t, h, w = cfg.patch
  tokens = rearrange(pixels.astype(cfg.dtype), "b (f t) (y h) (x w) c -> b (f y x) (c t h w)", t=t, h=h, w=w)
  return Linear(cfg.width, cfg.dtype).apply({"params": params["patch_embed"]}, by_rows(tokens))


def run(params: dict, cfg: VitConfig, x: Array, rope: Rope | None = None) -> Array:
  """Features (B, L, D) of tokens (B, L, D), normalised; `rope` as `Attention` takes it."""
  body = lambda x, layer: (Block(cfg).apply({"params": layer}, x, rope), None)
  x, _ = jax.lax.scan(body, x, params["blocks"])
  return norm_of(cfg, None).apply({"params": params["norm"]}, x).astype(cfg.dtype)


def norm_of(cfg: VitConfig, name: str | None) -> nn.LayerNorm:
  """A layer norm with scale and bias, in float32."""
  return nn.LayerNorm(epsilon=cfg.eps, use_fast_variance=False, dtype=jnp.float32, name=name)


class Attention(nn.Module):
  """Self-attention over all tokens; `rope` holds a full turn of numbers, (L, dh), see `vjepa2.make_rope`."""

  cfg: VitConfig

  def setup(self):
    self.query, self.key, self.value = (Linear((self.cfg.heads, self.cfg.head_dim), self.cfg.dtype) for _ in range(3))
    self.out = Linear(self.cfg.width, self.cfg.dtype, axes=2)

  def __call__(self, x: Array, rope: Rope | None) -> Array:
    q, k, v = self.query(x), self.key(x), self.value(x)
    if rope is not None:
      q, k = rotate(q, rope), rotate(k, rope)
    # Chunked: 65 frames are 8,448 tokens of V-JEPA 2, whose logits would take 4.6 GB per clip and layer.
    return self.out(chunked(q, k, v, None))


def rotate(x: Array, rope: Rope) -> Array:
  """x (B, L, N, dh) with neighbours (2i, 2i + 1) rotated, each by its own angle in rope (L, dh); in the dtype of x."""
  cos, sin = (table.astype(x.dtype)[:, None, :] for table in rope)
  turned = jnp.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
  return x * cos + turned * sin


class Mlp(nn.Module):
  """Two linear layers around a GELU."""

  cfg: VitConfig

  def setup(self):
    self.up, self.down = Linear(self.cfg.hidden, self.cfg.dtype), Linear(self.cfg.width, self.cfg.dtype)

  def __call__(self, x: Array) -> Array:
    return self.down(nn.gelu(self.up(x), approximate=self.cfg.tanh_gelu))


class Block(nn.Module):
  """Attention, then the MLP, each on normalised tokens, added."""

  cfg: VitConfig

  def setup(self):
    self.attention_norm, self.mlp_norm = norm_of(self.cfg, None), norm_of(self.cfg, None)
    self.attention, self.mlp = Attention(self.cfg), Mlp(self.cfg)
    if self.cfg.layer_scale:
      scale = lambda name: self.param(name, nn.initializers.ones_init(), (self.cfg.width,))
      self.attention_scale, self.mlp_scale = scale("attention_scale"), scale("mlp_scale")

  def __call__(self, x: Array, rope: Rope | None) -> Array:
    attended = self.attention(self.attention_norm(x).astype(x.dtype), rope)
    x = x + (attended * self.attention_scale.astype(x.dtype) if self.cfg.layer_scale else attended)
    mixed = self.mlp(self.mlp_norm(x).astype(x.dtype))
    return x + (mixed * self.mlp_scale.astype(x.dtype) if self.cfg.layer_scale else mixed)
