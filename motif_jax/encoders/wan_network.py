"""The encoder and the decoder of the Wan 2.1 VAE: functions over parameter trees, in one pass or streamed over time.

Both are a flat, named sequence of the layers of `wan_layers.py`.  A stream feeds frame 0 alone and then equal pieces, and carries
what the layers remember: its working memory does not grow with the number of frames.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from motif_jax.encoders import wan_layers as layers


@dataclasses.dataclass(frozen=True)
class WanConfig:
  """Sizes of the network, by default of the released one; named as in the config.json of diffusers' AutoencoderKLWan."""

  base_dim: int = 96
  z_dim: int = 16
  dim_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2  # of each level of the encoder; the decoder has one more
  temporal_downsample: tuple[bool, ...] = (False, True, True)  # between levels, of the encoder; diffusers writes "temperal"
  latents_mean: tuple[float, ...] = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                                     0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
  latents_std: tuple[float, ...] = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
  dtype: str = "bfloat16"  # of convolutions and matrix products

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent in time, height and width."""
    space = 2 ** len(self.temporal_downsample)
    return 2 ** sum(self.temporal_downsample), space, space


def encoder(cfg: WanConfig) -> dict[str, nn.Module]:
  """The layers from pixels to mean and log-variance, in order."""
  widths, dtype = [cfg.base_dim * m for m in cfg.dim_mult], cfg.dtype
  named = {"stem": layers.CausalConv(widths[0], dtype)}
  for level, width in enumerate(widths):
    named |= {f"level{level}_block{i}": layers.Residual(width, dtype) for i in range(cfg.num_res_blocks)}
    if level < len(cfg.temporal_downsample):
      named[f"level{level}_down"] = layers.Down(cfg.temporal_downsample[level], dtype)
  named |= _middle(widths[-1], dtype)
  return named | {"head": layers.Active(2 * cfg.z_dim, dtype), "quant": layers.Pointwise(2 * cfg.z_dim, dtype)}


def decoder(cfg: WanConfig) -> dict[str, nn.Module]:
  """The layers from latents to pixels, in order."""
  widths, dtype = [cfg.base_dim * m for m in reversed(cfg.dim_mult)], cfg.dtype
  doubled = tuple(reversed(cfg.temporal_downsample))
  named = {"quant": layers.Pointwise(cfg.z_dim, dtype), "stem": layers.CausalConv(widths[0], dtype), **_middle(widths[0], dtype)}
  for level, width in enumerate(widths):
    named |= {f"level{level}_block{i}": layers.Residual(width, dtype) for i in range(cfg.num_res_blocks + 1)}
    if level < len(doubled):
      named[f"level{level}_up"] = layers.Up(doubled[level], dtype)
  return named | {"head": layers.Active(3, dtype)}


def _middle(width, dtype):
  return {"middle_block0": layers.Residual(width, dtype), "middle_attention": layers.Attention(dtype),
          "middle_block1": layers.Residual(width, dtype)}


def abstract(cfg: WanConfig) -> dict:
  """Shapes and types of all parameters, {"encoder": ..., "decoder": ...}, at no cost in memory."""
  _, height, width = cfg.strides

  def initial(key):
    sizes = {"encoder": (encoder, (height, width, 3)), "decoder": (decoder, (1, 1, cfg.z_dim))}
    return {name: _init(key, part(cfg), jnp.zeros((1, 1, *size))) for name, (part, size) in sizes.items()}

  return jax.eval_shape(initial, jax.random.key(0))


def _init(key, part, x):
  params = {}
  for name, layer in part.items():
    (x, _), made = layer.init_with_output(key, x, None)
    params[name] = made["params"]
  return params


def encode(params: dict, cfg: WanConfig, video: Array, *, streamed: bool = True) -> tuple[Array, Array]:
  """Mean and log-variance (B, F', H', W', C) float32 of latents, not normalised, of a video (B, F, H, W, 3) in [-1, 1]."""
  run = lambda x, memory: _run(encoder(cfg), params["encoder"], x, memory)
  moments = _stream(run, video, cfg.strides[0], 1) if streamed else run(video, None)[0]
  mean, log_variance = jnp.split(moments, 2, axis=-1)
  return mean, jnp.clip(log_variance, -30, 20)


def decode(params: dict, cfg: WanConfig, latents: Array, *, streamed: bool = True, clip: bool = True) -> Array:
  """The video (B, F, H, W, 3) float32, by default clipped to [-1, 1], of latents (B, F', H', W', C) that are not normalised."""
  def run(x, memory):
    x, memory = _run(decoder(cfg), params["decoder"], x, memory)
    return jnp.clip(x, -1, 1) if clip else x, memory

  return _stream(run, latents, 1, cfg.strides[0]) if streamed else run(latents, None)[0]


def _run(part, params, x, memory):
  """x (B, F, H, W, C) float32 after all layers of `part`, and what each remembers; `memory` is None at frame 0."""
  kept = {}
  for name, layer in part.items():
    x, kept[name] = layer.apply({"params": params[name]}, x, None if memory is None else memory[name])
  return x.astype(jnp.float32), kept


def _stream(run: Callable, x: Array, taken: int, made: int) -> Array:
  """What `run` makes of frame 0 of x, and then of `taken` frames at a time, `made` frames each."""
  first, memory = run(x[:, :1], None)
  steps = (x.shape[1] - 1) // taken
  if not steps:
    return first

  def step(carry, i):
    out, memory = carry
    new, memory = run(jax.lax.dynamic_slice_in_dim(x, 1 + i * taken, taken, axis=1), memory)
    return (jax.lax.dynamic_update_slice_in_dim(out, new, 1 + i * made, axis=1), memory), None

  # Written into one array as it comes: stacked outputs of the scan would be copied as a whole, to put time behind the batch.
  out = jnp.zeros((len(x), 1 + steps * made, *first.shape[2:]), first.dtype).at[:, :1].set(first)
  (out, _), _ = jax.lax.scan(step, (out, memory), jnp.arange(steps))
  return out
