"""The training objective: what is drawn at random, and how the network's velocity is scored."""

from collections.abc import Callable
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.config import Config
from motif_jax.flow import path, times
from motif_jax.model import alignment, routing, transformer
from motif_jax.model.conditioning import network_input
from motif_jax.model.plan import Segment
from motif_jax.model.routing import Route


LATENTS = 1  # folded into a step's key for `drawn_latents`: what `draw` splits off does not depend on it


class Draws(NamedTuple):
  """What one step draws at random."""

  t: Array  # (B,)
  noise: Array  # (B, F, H, W, C)
  conditioned: Array  # (B,) bool: image-to-video
  route: Route | None


def token_grid(cfg: Config, latents_shape: tuple[int, ...]) -> tuple[int, int, int]:
  """(frames, height, width) of the video tokens of latents (B, F, H, W, C)."""
  return tuple(size // p for size, p in zip(latents_shape[1:4], cfg.model.patch))


@jax.named_scope("draws")
def draw(key: Array, cfg: Config, latents_shape: tuple[int, ...], *, routed: bool,
         pictured: bool = False) -> Draws:
  """The random choices for latents of that shape; a route only if `routed`.

  `pictured`: with `data.image_tokens`, whether the batch holds them; all of its samples start from their pictures, or none.
  """
  batch, frames = latents_shape[:2]
  time_key, noise_key, conditioned_key, route_key = jax.random.split(key, 4)
  route = None
  if routed:
    length = math.prod(token_grid(cfg, latents_shape))
    route = routing.draw(route_key, batch, length, keep=cfg.route.keep, groups=cfg.route.groups, policy=cfg.route.policy)
  return Draws(
      t=times.sample(time_key, (batch,), **dataclasses.asdict(cfg.times)),
      noise=jax.random.normal(noise_key, latents_shape, jnp.float32),
      conditioned=jnp.full((batch,), pictured) if cfg.data.image_tokens else draw_conditioned(
          conditioned_key, batch, frames, share=cfg.data.image_to_video),
      route=route,
  )


@jax.named_scope("draws")
def drawn_latents(key: Array, batch: dict) -> Array:
  """The latents (B, F, H, W, C) of a batch: a sample where it has their log-variance (`data.sample_latents`), else the mean."""
  if "log_variance" not in batch:
    return batch["latents"]
  mean, log_variance = (batch[name].astype(jnp.float32) for name in ("latents", "log_variance"))  # records are float16
  return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(jax.random.fold_in(key, LATENTS), mean.shape)


def draw_conditioned(key: Array, batch: int, frames: int, *, share: float) -> Array:
  """(B,) bool: which samples are conditioned on their first frame; none where there is but one latent frame."""
  if frames == 1:
    return jnp.zeros((batch,), bool)
  return jax.random.uniform(key, (batch,)) < share


def objective(params: dict, cfg: Config, batch: dict, draws: Draws, plan: tuple[Segment, ...],
              of_block: Callable | None = None) -> tuple[Array, dict]:
  """The loss () that training descends, and its parts per sample: loss (B,) of the velocity, with a tap alignment (B,), and with
  `of_block` what it measures of each block, blocks: kind -> {name: (B, blocks)}."""
  batch = {name: x if x.dtype == bool else x.astype(jnp.float32) for name, x in batch.items()}  # records are float16
  latents = batch["latents"]
  noisy = path.interpolate(latents, draws.noise, draws.t)
  inputs = network_input(noisy, batch["first_frame"], draws.t, draws.conditioned)
  velocity, aux = transformer.apply(params["model"], cfg.model, inputs, draws.t, batch["text"], text_mask=batch["text_mask"],
                                    image=batch.get("image"), plan=plan, route=draws.route, measure=of_block)
  parts = {"loss": flow_matching(velocity, path.velocity(latents, draws.noise))}
  if of_block is not None:
    parts["blocks"] = aux.measured
  total = jnp.mean(parts["loss"])
  tap = next((segment for segment in plan if segment.tap), None)
  if tap is not None:
    # A tap inside the route holds only the kept tokens: they are compared with the teacher's features at the same places.
    parts["alignment"] = alignment.alignment_loss(params["projector"], cfg.alignment, aux.tapped, batch["teacher"],
                                                  token_grid(cfg, latents.shape), draws.route if tap.routed else None)
    total += cfg.alignment.weight * jnp.mean(parts["alignment"])
  return total, parts


@jax.named_scope("loss")
def flow_matching(velocity: Array, target: Array) -> Array:
  """(B,) float32: mean squared error of the velocity (B, F, H, W, C) of each sample."""
  error = velocity.astype(jnp.float32) - target.astype(jnp.float32)
  return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
