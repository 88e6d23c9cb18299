"""The small parts that blocks and embedders are made of (model.md sections 1.2 and 1.5 to 1.8)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.config import ModelConfig
from motif_jax.model.rope import Rope, rotate

EPS = 1e-6
XAVIER = nn.initializers.xavier_uniform()
ZEROS = nn.initializers.zeros_init()


def dense(features, dtype, *, axis=-1, use_bias=True, kernel_init=XAVIER) -> nn.DenseGeneral:
  """A linear layer onto `features`, an int or (N, dh), from `axis`; DenseGeneral shows the initialiser the kernel as a matrix."""
  return nn.DenseGeneral(features, axis=axis, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init)


def layer_norm(x: Array) -> Array:
  """x normalised over its features, without parameters, float32."""
  x = x.astype(jnp.float32)
  centred = x - jnp.mean(x, axis=-1, keepdims=True)
  return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + EPS)


class RMSNorm(nn.Module):
  """RMS normalisation with a learned scale over the last axis: float32 up to one cast at the end, as torch does it."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPS) * scale).astype(x.dtype)


class Triple(NamedTuple):
  """The modulation of one residual branch, each (B, 1, D) float32."""

  shift: Array
  scale: Array
  gate: Array

  def apply(self, x: Array) -> Array:
    """Layer-normalised x (B, L, D), scaled and shifted, in the dtype of x."""
    return (layer_norm(x) * (1 + self.scale) + self.shift).astype(x.dtype)

  def add(self, x: Array, branch: Array) -> Array:
    """x plus the gated output of its branch, rounded once to the dtype of x."""
    return (x + self.gate * branch).astype(x.dtype)


class Modulation(nn.Module):
  """`count` vectors, each (B, 1, D) float32, from the condition (B, D): adaptive layer norm, zero at initialisation."""

  count: int
  dtype: str

  @nn.compact
  def __call__(self, cond: Array) -> list[Array]:
    width = cond.shape[-1]
    kernel = self.param("kernel", ZEROS, (width, self.count * width))
    bias = self.param("bias", ZEROS, (self.count * width,))
    active, kernel, bias = nn.dtypes.promote_dtype(nn.silu(cond), kernel, bias, dtype=self.dtype)
    out = jnp.dot(active, kernel, preferred_element_type=jnp.float32) + bias
    return jnp.split(out[:, None, :], self.count, axis=-1)


class Heads(nn.Module):
  """Projections into and out of attention heads, with RMS norm on queries and keys."""

  cfg: ModelConfig
  out_bias: bool = True

  def setup(self):
    shape = (self.cfg.heads, self.cfg.head_dim)
    self.query, self.key, self.value = (dense(shape, self.cfg.dtype) for _ in range(3))
    self.query_norm, self.key_norm = RMSNorm(), RMSNorm()
    self.out = dense(self.cfg.width, self.cfg.dtype, axis=(-2, -1), use_bias=self.out_bias)

  def __call__(self, x: Array, rope: Rope | None) -> tuple[Array, Array, Array]:
    """Queries, keys and values (B, L, N, dh) of x (B, L, D); queries and keys normalised, then rotated where `rope` is given."""
    q, k, v = self.query_norm(self.query(x)), self.key_norm(self.key(x)), self.value(x)
    if rope is not None:
      q, k = rotate(q, rope), rotate(k, rope)
    return q, k, v


class Mlp(nn.Module):
  """Two linear layers around a tanh-approximated GELU."""

  cfg: ModelConfig

  def setup(self):
    self.up = dense(self.cfg.mlp_ratio * self.cfg.width, self.cfg.dtype)
    self.down = dense(self.cfg.width, self.cfg.dtype)

  def __call__(self, x: Array) -> Array:
    return self.down(nn.gelu(self.up(x), approximate=True))
