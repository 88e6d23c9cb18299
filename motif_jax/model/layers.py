"""The small parts that blocks and embedders are made of (model.md sections 1.2 and 1.5 to 1.8)."""

from collections.abc import Callable
from functools import partial
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.config import ModelConfig
from motif_jax.mesh import constrain, whole_features
from motif_jax.model.rope import Rope, rotate

EPS = 1e-6
XAVIER = nn.initializers.xavier_uniform()
ZEROS = nn.initializers.zeros_init()


class Linear(nn.Module):
  """A linear layer from the last axis, or the last two (N, dh), onto `features`: D, or (N, dh).  The kernel is float32."""

  features: int | tuple[int, int]
  dtype: str
  axes: int = 1  # how many of the last axes of the input are summed over
  use_bias: bool = True
  kernel_init: Callable = XAVIER

  @nn.compact
  def __call__(self, x: Array) -> Array:
    inputs, outputs = x.shape[-self.axes:], (self.features,) if isinstance(self.features, int) else self.features
    # The initialiser sees a matrix: the fans of attention heads are those of all heads together.
    matrix = lambda key: self.kernel_init(key, (math.prod(inputs), math.prod(outputs))).reshape(*inputs, *outputs)
    kernel = self.param("kernel", matrix)
    bias = self.param("bias", ZEROS, outputs) if self.use_bias else None
    x = x.astype(self.dtype)
    return adapted(self, x, linear(x, kernel, bias, self.axes), self.axes)


def adapted(layer: nn.Module, x: Array, out: Array, axes: int = 1) -> Array:
  """What `layer` gives for x, `out`, plus what its low-rank adapter does; `out` where it has none (`model/lora.py`)."""
  if not layer.has_variable("params", "adapter"):
    return out
  adapter = layer.get_variable("params", "adapter")
  return out + linear(linear(x, adapter["down"], None, axes), adapter["up"], None)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def linear(x: Array, kernel: Array, bias: Array | None, axes: int = 1, wide: bool = False) -> Array:
  """x (..., *in) times a float32 kernel (*in, *out), plus a float32 bias (*out): (..., *out) in the dtype of x.

  `axes` is the length of `in`; the result is float32 if `wide`.  The kernel is cast and only then, on a mesh, gathered from all
  devices: half the bytes, and here, where it is used, so that under rematerialisation no device holds more than one block's.
  Gradients of kernel and bias are float32 sums, over tokens and over devices; autodiff would round each device's sum to bfloat16,
  and sum biases in it.
  """
  # Features stay whole: the partitioner would cut those of text tokens over "sequence", and gather them again for attention.
  dtype = jnp.float32 if wide else None
  out = jnp.tensordot(whole_features(x, axes), _whole(kernel, x.dtype), axes, preferred_element_type=dtype)
  out = whole_features(out, kernel.ndim - axes)
  return out if bias is None else out + bias.astype(x.dtype)


def _whole(kernel, dtype):
  return constrain(kernel.astype(dtype), *(None,) * kernel.ndim)


def _linear_forward(x, kernel, bias, axes, wide):
  return linear(x, kernel, bias, axes, wide), (x, kernel, bias)


def _linear_backward(axes, wide, saved, gradient):
  x, kernel, bias = saved
  tokens = list(range(x.ndim - axes))
  outputs = kernel.ndim - axes
  x, gradient = whole_features(x, axes), whole_features(gradient, outputs)
  to_x = jnp.tensordot(gradient, jnp.moveaxis(_whole(kernel, x.dtype), range(axes), range(outputs, kernel.ndim)), outputs)
  to_x = whole_features(to_x.astype(x.dtype), axes)
  to_kernel = jnp.tensordot(x, gradient, (tokens, tokens), preferred_element_type=jnp.float32)
  to_bias = None if bias is None else jnp.sum(gradient, axis=tokens, dtype=jnp.float32)
  return to_x, to_kernel, to_bias


linear.defvjp(_linear_forward, _linear_backward)


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

  @jax.named_scope("modulation")
  def apply(self, x: Array) -> Array:
    """Layer-normalised x (B, L, D), scaled and shifted, in the dtype of x."""
    return (layer_norm(x) * (1 + self.scale) + self.shift).astype(x.dtype)

  @jax.named_scope("modulation")
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
    active = nn.silu(cond).astype(self.dtype)
    out = adapted(self, active, linear(active, kernel, bias, wide=True))
    # Pinned: left to itself the partitioner spreads features over the mesh, and every split of them becomes a dozen permutes.
    parts = jnp.split(constrain(out, "batch", None)[:, None, :], self.count, axis=-1)
    return [constrain(part, "batch", None, None) for part in parts]


class Heads(nn.Module):
  """Projections into and out of attention heads, with RMS norm on queries and keys."""

  cfg: ModelConfig
  out_bias: bool = True

  def setup(self):
    shape = (self.cfg.heads, self.cfg.head_dim)
    self.query, self.key, self.value = (Linear(shape, self.cfg.dtype) for _ in range(3))
    self.query_norm, self.key_norm = RMSNorm(), RMSNorm()
    self.out = Linear(self.cfg.width, self.cfg.dtype, axes=2, use_bias=self.out_bias)

  def __call__(self, x: Array, rope: Rope | None, *, asks: bool = True) -> tuple[Array | None, Array, Array]:
    """Queries, keys and values (B, L, N, dh) of x (B, L, D); queries and keys normalised, then rotated where `rope` is given.

    No queries unless it `asks`: where nobody reads what attention would give to x.
    """
    turned = lambda y: y if rope is None else rotate(y, rope)
    q = turned(self.query_norm(self.query(x))) if asks else None
    return q, turned(self.key_norm(self.key(x))), self.value(x)

  def merge(self, attended: Array) -> Array:
    """(B, L, D) of what attention gave to each head (B, L, N, dh)."""
    return self.out(attended)


class Mlp(nn.Module):
  """Two linear layers around a tanh-approximated GELU."""

  cfg: ModelConfig

  def setup(self):
    self.up = Linear(round(self.cfg.mlp_ratio * self.cfg.width), self.cfg.dtype)
    self.down = Linear(self.cfg.width, self.cfg.dtype)

  def __call__(self, x: Array) -> Array:
    return self.down(nn.gelu(self.up(x), approximate=True))
