"""Sampling one compiled step at a time, for who looks on: the walk of `sample.generate`, in which each step can be seen."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from motif_jax import sample
from motif_jax.config import Config, GuidanceConfig, ModelConfig
from motif_jax.flow import path, samplers

PIXELS = 2**22  # of all frames of a preview, about
SIDE = 256  # pixels of its longer side, at most


class Step(NamedTuple):
  """What is known after a step."""

  number: int  # of steps taken, from 1
  of: int
  t: float  # at which the velocity was evaluated
  x: Array  # (B, F, H, W, C) after the step; the latents, after the last
  velocity: Array  # the guided one that the step was taken with; of several the first
  data: Array  # where it points: the estimate of the latents


def steps(params: dict, cfg: Config, text: Array, mask: Array, empty_text: Array, empty_mask: Array, *, key: Array,
          grid: tuple[int, int, int], indices: Array | None = None, first_frame: Array | None = None,
          image: Array | None = None) -> Iterator[Step]:
  """Yields each `Step` of the walk that `sample.generate` makes of the same arguments."""
  how = cfg.sample
  indices = np.arange(len(text)) if indices is None else np.asarray(indices)
  times = sample.times_of(cfg, grid, picture=first_frame is not None)
  rows, computed = samplers.rows_of(times, how.sampler), sample.computed_steps(how)
  conditions = (params, (text, mask), (empty_text, empty_mask), first_frame, image, computed)
  static = dict(model=cfg.model, sampler=how.sampler, guidance=how.guidance, order=how.cache.order)
  walk = _start(*conditions, key, indices, latent_grid=tuple(grid), **static)
  for i in range(how.steps):
    walk, velocity, data = _advance(*conditions, walk, jax.tree.map(lambda row: row[i], rows), **static)
    yield Step(i + 1, how.steps, float(times[i]), walk.x, velocity, data)


def watched(watch: Callable) -> Callable:
  """A function of the arguments of `sample.generate`, and with its result, that calls watch(step, indices) after each step."""

  def generate(params, cfg, *texts, indices=None, **given):
    for step in steps(params, cfg, *texts, indices=indices, **given):
      watch(step, indices)
    return step.x

  return generate


def preview(codec, data: Array) -> np.ndarray:
  """Small frames (B, F', H', W', 3) uint8 of the beginning of latents (B, F, H, W, C), which codecs decode as in the whole."""
  stride, height, width = (n * s for n, s in zip((1, *data.shape[2:4]), codec.strides))
  latents, every = max(1, PIXELS // (stride * height * width)), -(-max(height, width) // SIDE)
  return np.asarray(sample.decode(codec, data[:, :latents]))[:, :, ::every, ::every]


@functools.partial(jax.jit, static_argnames=("latent_grid", "model", "sampler", "guidance", "order"))
def _start(params, text, empty, first_frame, image, computed, key, indices, *, latent_grid, model: ModelConfig, sampler,
           guidance: GuidanceConfig, order):
  noise = sample.initial_noise(key, indices, (*latent_grid, model.latent_channels))
  _, memory = sample.velocity_of(params, text, empty, first_frame, image, computed, noise=noise, model=model, guidance=guidance,
                                 order=order)
  return samplers.start(noise, sampler, memory=memory)


@functools.partial(jax.jit, static_argnames=("model", "sampler", "guidance", "order"))
def _advance(params, text, empty, first_frame, image, computed, walk, row, *, model: ModelConfig, sampler,
             guidance: GuidanceConfig, order):
  """(The walk after the step of `row`, the velocity that it evaluated first, the data to which that points)."""
  seen = []
  v, _ = sample.velocity_of(params, text, empty, first_frame, image, computed, noise=walk.x, model=model, guidance=guidance,
                            order=order)

  def watching(x, t, memory):
    velocity, memory = v(x, t, memory)
    seen.append((velocity, path.data_from(x, velocity, t)))
    return velocity, memory

  after = samplers.advance(watching, walk, row, sampler)
  return after, *seen[0]
