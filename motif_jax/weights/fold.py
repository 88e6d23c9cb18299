"""A query LayerNorm folded into the query projection in front of it (model.md section 2).

The QK norm behind it divides each head by its own size, so the LayerNorm's division changes nothing and what is left is linear:
kernel' = kernel (I - 1 1' / D) diag(scale), bias' = (bias - its mean) scale.  A bias of the LayerNorm stands beside what was
divided by the deviation of each token; with one number in the place of all tokens' deviations it is folded too, with an error.
"""

from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from motif_jax.config import ModelConfig
from motif_jax.model import observe, transformer
from motif_jax.model.layers import EPS

CROSS = "single/cross/"


class Calibration(NamedTuple):
  """Inputs of the network on which deviations, and then the error, are measured."""

  latents: Array  # (B, F, H, W, 2C + 1)
  t: Array  # (B,)
  text: Array  # (B, T, text_dim)


def random_inputs(cfg: ModelConfig, *, seed: int = 0) -> Calibration:
  """Noise as latents and text, at four times: for want of anything real."""
  rng, (time, height, width) = np.random.default_rng(seed), cfg.patch
  normal = lambda *shape: jnp.asarray(rng.standard_normal((4, *shape), np.float32))
  latents = normal(2 * time, 4 * height, 6 * width, 2 * cfg.latent_channels + 1)
  latents = latents.at[..., cfg.latent_channels:].set(0)  # text-to-video
  return Calibration(latents, jnp.asarray([0.125, 0.375, 0.625, 0.875]), normal(16, cfg.text_dim))


def folded(params: Mapping, cfg: ModelConfig, calibration: Calibration | None) -> tuple[dict, ModelConfig, str]:
  """(parameters without query LayerNorm, their config, what was done, in words); `calibration` only where it has a bias."""
  leaves = flatten_dict(params, sep="/")
  take = lambda name: np.asarray(leaves.pop(CROSS + name), np.float64)
  depth, width, *heads = leaves[CROSS + "query/kernel"].shape
  biased = cfg.cross_attention.query_norm == "scale_bias"
  deviations = deviations_of(params, cfg, calibration) if biased else np.zeros(depth)
  kernel, bias = take("query/kernel").reshape(depth, width, width), take("query/bias").reshape(depth, 1, width)
  scale = take("query_layernorm/scale").reshape(depth, 1, width)
  shift = take("query_layernorm/bias").reshape(depth, 1, width) if biased else np.zeros((1, 1, width))
  centred = lambda x: (x - x.mean(axis=-1, keepdims=True)) * scale
  # Float32 whatever the parameters are: rounded to bfloat16 the fold would be a model with other queries.
  leaves[CROSS + "query/kernel"] = jnp.asarray(centred(kernel).reshape(depth, width, *heads), jnp.float32)
  bias = centred(bias) + deviations[:, None, None] * shift
  leaves[CROSS + "query/bias"] = jnp.asarray(bias.reshape(depth, *heads), jnp.float32)
  plain = dataclasses.replace(cfg, cross_attention=dataclasses.replace(cfg.cross_attention, query_norm="none"))
  made = unflatten_dict(leaves, sep="/")
  if not biased:
    return made, plain, "the query LayerNorm, which has no bias, is folded into cross_attn.to_q: exact up to rounding"
  error = velocity_error(made, plain, params, cfg, calibration)
  return made, plain, ("the query LayerNorm is folded into cross_attn.to_q with one deviation per block, "
                       f"{deviations.min():.3g} to {deviations.max():.3g}: NOT exact, the velocity is off by {error:.2g} of its "
                       f"size on {len(calibration.t)} inputs")


def deviations_of(params: Mapping, cfg: ModelConfig, calibration: Calibration) -> np.ndarray:
  """The mean over tokens, for each block, of what its query LayerNorm divides by."""
  deviation = lambda x: jnp.mean(jnp.sqrt(jnp.var(x.astype(jnp.float32), axis=-1) + EPS))
  return np.array(observe.given_to("query_layernorm", deviation, _velocity(cfg), params, *calibration), np.float64)


def velocity_error(params: Mapping, cfg: ModelConfig, original: Mapping, original_cfg: ModelConfig, given: Calibration) -> float:
  """The size of the difference of two models' velocities, over the size of the original's."""
  got, want = (jax.jit(_velocity(c))(p, *given) for p, c in ((params, cfg), (original, original_cfg)))
  return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


def _velocity(cfg):
  cfg = dataclasses.replace(cfg, dtype="float32", remat="none", attention="xla")  # to measure the fold and nothing else
  return lambda params, latents, t, text: transformer.apply(params, cfg, latents, t, text)[0]
