"""The encoder half of T5Gemma2, its text path: token ids -> features (model.md section 6; transformers 5.23.0, `t5gemma2`).

Depth is the leading axis of `params["layers"]`, run by a scan.  Layers differ in two facts only, the window of their attention
and the base of their RoPE, and both follow from one boolean per layer, which goes through the scan beside the parameters.
Parameters keep the dtype they were published in (bfloat16): in float32 they would take as much memory as the model's whole state.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from motif_jax.mesh import by_rows
from motif_jax.model.layers import Linear
from motif_jax.model.rope import Rope


@dataclasses.dataclass(frozen=True)
class T5Gemma2Config:
  """What the network is; any size."""

  vocabulary: int
  width: int
  hidden: int  # of the gated MLP
  heads: int
  key_heads: int  # each is shared by heads / key_heads heads, neighbours
  head_dim: int
  full: tuple[bool, ...]  # one per layer: attention over the whole text, and not in a window
  window: int
  query_scale: float  # of the logits is query_scale^-0.5
  theta: float  # base of the RoPE of windowed layers
  full_theta: float
  full_stretch: float  # positions of full layers are divided by it
  image_end: int  # the token whose embedding stands apart, and is not scaled
  dtype: str  # of activations

  @property
  def depth(self) -> int:
    return len(self.full)


RELEASED = T5Gemma2Config(  # the encoder of the 4B-4B size, which the released model reads: 3,880,101,888 parameters
    vocabulary=262144, width=2560, hidden=10240, heads=8, key_heads=4, head_dim=256, window=1024, query_scale=256.0,
    full=tuple(i % 6 == 5 for i in range(34)), theta=1e4, full_theta=1e6, full_stretch=8.0, image_end=256000, dtype="bfloat16")
EPS = 1e-6


def init(key: Array, cfg: T5Gemma2Config) -> dict:
  """Parameters, float32, drawn at random: what says their paths and shapes, and what tests run."""
  embed_key, layers_key = jax.random.split(key)
  block, x = Layer(cfg), jnp.zeros((1, 2, cfg.width))
  facts = Facts(rope=Rope(*jnp.zeros((2, 2, cfg.head_dim // 2))), mask=jnp.ones((1, 2, 2), bool))
  layers = jax.vmap(lambda k: block.init(k, x, facts)["params"])(jax.random.split(layers_key, cfg.depth))
  return {
      "embed": {"table": jax.random.normal(embed_key, (cfg.vocabulary, cfg.width)), "image_end": jnp.zeros(cfg.width)},
      "layers": layers,
      "norm": {"offset": jnp.zeros(cfg.width)},
  }


def apply(params: dict, cfg: T5Gemma2Config, ids: Array, mask: Array) -> Array:
  """Features (B, T, D) in cfg.dtype of token ids (B, T), the last layer's, normalised; mask (B, T) is True for real tokens.

  Padding stands at the end.  What comes out in its place means nothing: cut it off, or mask it.
  """
  windowed, full = facts_of(cfg, mask)

  def body(x, layer):
    is_full, layer = layer
    facts = jax.tree.map(lambda a, b: jnp.where(is_full, a, b), full, windowed)
    return Layer(cfg).apply({"params": layer}, x, facts), None

  x, _ = jax.lax.scan(body, by_rows(embed(params["embed"], cfg, ids)), (np.array(cfg.full), params["layers"]))
  return gemma_norm(x, params["norm"]["offset"])


def embed(params: dict, cfg: T5Gemma2Config, ids: Array) -> Array:
  """(B, T, D) of token ids (B, T), times sqrt(D)."""
  table = params["table"]
  # Rounded to the dtype of the table, as the reference does: sqrt(2560) is 50.5 in bfloat16, not 50.596.
  rows = jnp.take(table, ids, axis=0) * jnp.asarray(cfg.width**0.5, table.dtype)
  return jnp.where((ids == cfg.image_end)[..., None], params["image_end"].astype(table.dtype), rows).astype(cfg.dtype)


class Facts(NamedTuple):
  """What a kind of layer knows of the positions."""

  rope: Rope  # (T, dh / 2)
  mask: Array  # (B, T, T): query, key; True where the key may be attended


def facts_of(cfg: T5Gemma2Config, mask: Array) -> tuple[Facts, Facts]:
  """The facts of windowed and of full layers, for texts whose real tokens `mask` (B, T) marks."""
  length = mask.shape[1]
  offset = np.arange(length) - np.arange(length)[:, None]  # of the key from the query
  # Bidirectional, and wider to the right: -511 to +512 with the released window of 1024.
  inside = (offset > -((cfg.window + 1) // 2)) & (offset < cfg.window // 2 + 1)
  keys = mask[:, None, :]
  full = jnp.broadcast_to(keys, (len(mask), length, length))
  return (Facts(make_rope(length, cfg.head_dim, cfg.theta), keys & inside),
          Facts(make_rope(length, cfg.head_dim, cfg.full_theta, stretch=cfg.full_stretch), full))


def make_rope(length: int, width: int, theta: float, *, stretch: float = 1.0) -> Rope:
  """The rotations of `length` positions; angles in float32, as in the reference."""
  frequency = (theta ** (-np.arange(0, width, 2) / width) / stretch).astype(np.float32)
  angle = np.arange(length, dtype=np.float32)[:, None] * frequency
  return Rope(jnp.asarray(np.cos(angle)), jnp.asarray(np.sin(angle)))


def rotate_halves(x: Array, rope: Rope) -> Array:
  """x (B, T, N, dh) with feature i and i + dh / 2 rotated as a pair, in the dtype of x, as in the reference."""
  cos, sin = (table.astype(x.dtype)[:, None, :] for table in rope)
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def gemma_norm(x: Array, offset: Array) -> Array:
  """RMS normalisation over the last axis, times 1 + offset: float32 up to one cast at the end."""
  wide = x.astype(jnp.float32)
  normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPS)
  return (normed * (1 + offset.astype(jnp.float32))).astype(x.dtype)


class GemmaNorm(nn.Module):
  """`gemma_norm` with its learned offset."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return gemma_norm(x, self.param("offset", nn.initializers.zeros_init(), (x.shape[-1],)))


class Attention(nn.Module):
  """Attention of grouped heads: query head n reads key head n // (heads / key_heads)."""

  cfg: T5Gemma2Config

  def setup(self):
    cfg = self.cfg
    heads = lambda count: Linear((count, cfg.head_dim), cfg.dtype, use_bias=False)
    self.query, self.key, self.value = heads(cfg.heads), heads(cfg.key_heads), heads(cfg.key_heads)
    self.query_norm, self.key_norm = GemmaNorm(), GemmaNorm()
    self.out = Linear(cfg.width, cfg.dtype, axes=2, use_bias=False)

  def __call__(self, x: Array, facts: Facts) -> Array:
    cfg = self.cfg
    q = rotate_halves(self.query_norm(self.query(x)), facts.rope)
    k, v = rotate_halves(self.key_norm(self.key(x)), facts.rope), self.value(x)
    q = q.reshape(*q.shape[:2], cfg.key_heads, -1, cfg.head_dim)  # (B, T, key heads, heads of each, dh)
    logits = jnp.einsum("btkgd,bskd->bkgts", q, k, preferred_element_type=jnp.float32) * cfg.query_scale**-0.5
    # Not minus infinity: a row of padding may see no key at all, and must not become NaN.
    logits = jnp.where(facts.mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskd->btkgd", weights, v)
    return self.out(out.reshape(*x.shape[:2], cfg.heads, cfg.head_dim))


class Mlp(nn.Module):
  """A gated MLP: down(gelu(gate(x)) * up(x))."""

  cfg: T5Gemma2Config

  def setup(self):
    self.gate, self.up = (Linear(self.cfg.hidden, self.cfg.dtype, use_bias=False) for _ in range(2))
    self.down = Linear(self.cfg.width, self.cfg.dtype, use_bias=False)

  def __call__(self, x: Array) -> Array:
    return self.down(nn.gelu(self.gate(x), approximate=True) * self.up(x))


class Layer(nn.Module):
  """Attention, then the MLP, each normalised before and after."""

  cfg: T5Gemma2Config

  def setup(self):
    self.attention, self.mlp = Attention(self.cfg), Mlp(self.cfg)
    self.before_attention, self.after_attention, self.before_mlp, self.after_mlp = (GemmaNorm() for _ in range(4))

  def __call__(self, x: Array, facts: Facts) -> Array:
    x = x + self.after_attention(self.attention(self.before_attention(x), facts))
    return x + self.after_mlp(self.mlp(self.before_mlp(x)))
