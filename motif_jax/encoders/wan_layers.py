"""The layers of the Wan 2.1 VAE: each continues a video from what it remembers of the frames before.

A layer is called with frames (B, F, H, W, C) and its memory, and returns new frames and the new memory.  Memory None: the video
begins, and its frame 0 is the first of these frames.  So one pass over a video and a stream of pieces are the same code, and the
same numbers: each layer remembers exactly the frames of its input that its next output depends on (model.md section 5).
Norms and softmax compute in float32, everything else in `dtype`, whatever the dtype of the parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import Array

from motif_jax.mesh import constrain
from motif_jax.model.attention import chunked
from motif_jax.model.layers import XAVIER, ZEROS, Linear


class Norm(nn.Module):
  """x divided by the root mean square of its channels, times a learned scale."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
    wide = x.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True))
    # Not an epsilon inside the root: the reference divides by the length, or by 1e-12 where that is larger.
    return (wide / jnp.maximum(length, 1e-12) * x.shape[-1] ** 0.5 * scale).astype(x.dtype)


class Conv(nn.Module):
  """A convolution without padding over the axes between batch and channels: of images, or of videos with their time."""

  features: int
  kernel: tuple[int, ...]
  dtype: str
  stride: tuple[int, ...] | None = None
  padding: tuple[tuple[int, int], ...] | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", XAVIER, (*self.kernel, x.shape[-1], self.features))
    bias = self.param("bias", ZEROS, (self.features,))
    kernel = constrain(kernel.astype(self.dtype), *(None,) * kernel.ndim)  # parameters may be spread over a mesh, not features
    axes = "THW"[-len(self.kernel):]
    out = jax.lax.conv_general_dilated(
        x.astype(self.dtype), kernel, self.stride or (1,) * len(axes), self.padding or ((0, 0),) * len(axes),
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"))
    return out + bias.astype(self.dtype)


class CausalConv(nn.Module):
  """A 3 x 3 x 3 convolution that sees the frame itself and the two before it; before frame 0 there are zeros."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: Array | None) -> tuple[Array, Array]:
    x, memory = remember(x.astype(self.dtype), memory, 2)
    return Conv(self.features, (3, 3, 3), self.dtype, padding=((0, 0), (1, 1), (1, 1)), name="conv")(x), memory


class Pointwise(nn.Module):
  """A linear layer over channels, as a layer of the video."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: None) -> tuple[Array, None]:
    return Linear(self.features, self.dtype, name="linear")(x), None


class Active(nn.Module):
  """Norm, SiLU and a causal convolution onto `features`."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: Array | None) -> tuple[Array, Array]:
    return CausalConv(self.features, self.dtype, name="causal")(nn.silu(Norm(name="norm")(x)), memory)


class Residual(nn.Module):
  """x, linearly mapped where the number of channels changes, plus two activated convolutions."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: tuple[Array, Array] | None) -> tuple[Array, tuple[Array, Array]]:
    before, after = memory or (None, None)
    branch, before = Active(self.features, self.dtype, name="first")(x, before)
    branch, after = Active(self.features, self.dtype, name="second")(branch, after)
    if x.shape[-1] != self.features:
      x = Linear(self.features, self.dtype, name="shortcut")(x)
    return x + branch, (before, after)


class Attention(nn.Module):
  """x plus self-attention among the pixels of each frame, with one head."""

  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: None) -> tuple[Array, None]:
    frames, height, width, channels = x.shape[1:]
    qkv = Linear(3 * channels, self.dtype, name="qkv")(Norm(name="norm")(x))
    # In blocks of queries: the whole matrix of logits takes 867 MB for a frame of 736 x 1280 pixels.
    mixed = chunked(*rearrange(qkv, "b f y x (part c) -> part (b f) (y x) 1 c", part=3), None)
    mixed = rearrange(mixed, "(b f) (y x) 1 c -> b f y x c", f=frames, y=height)
    return x + Linear(channels, self.dtype, name="out")(mixed), None


class Down(nn.Module):
  """Half the height and width; with `time`, half the frames after frame 0, which passes as it is."""

  time: bool
  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: Array | None) -> tuple[Array, Array | None]:
    pad = ((0, 1), (0, 1))  # below and to the right, so that output pixel i begins at input pixel 2 i
    x = _each_frame(Conv(x.shape[-1], (3, 3), self.dtype, (2, 2), pad, name="space"), x)
    if not self.time:
      return x, None
    still, x = (x[:, :1], x) if memory is None else (x[:, :0], jnp.concatenate([memory, x], axis=1))
    halved = Conv(x.shape[-1], (3, 1, 1), self.dtype, (2, 1, 1), name="time")(x)
    return jnp.concatenate([still, halved], axis=1), x[:, -1:]


class Up(nn.Module):
  """Twice the height and width with half the channels; with `time`, two frames for each after frame 0, which stays one."""

  time: bool
  dtype: str

  @nn.compact
  def __call__(self, x: Array, memory: Array | None) -> tuple[Array, Array | None]:
    channels = x.shape[-1]
    if self.time:
      # Frame 0 is no part of the history either: the frames after it see zeros in its place.
      still, x = (x[:, :1], x[:, 1:]) if memory is None else (x[:, :0], x)
      x, memory = remember(x, memory, 2)
      pairs = Conv(2 * channels, (3, 1, 1), self.dtype, name="time")(x)
      x = jnp.concatenate([still, rearrange(pairs, "b f y x (two c) -> b (f two) y x c", two=2)], axis=1)
    x = repeat(x, "b f y x c -> b f (y 2) (x 2) c")
    return _each_frame(Conv(channels // 2, (3, 3), self.dtype, padding=((1, 1), (1, 1)), name="space"), x), memory


def remember(x: Array, memory: Array | None, frames: int) -> tuple[Array, Array]:
  """`memory` (zeros if None) followed by x in time, and the last `frames` of that."""
  if memory is None:
    memory = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
  x = jnp.concatenate([memory, x], axis=1)
  return x, x[:, -frames:]


def _each_frame(conv, x):
  return rearrange(conv(rearrange(x, "b f y x c -> (b f) y x c")), "(b f) y x c -> b f y x c", b=len(x))
