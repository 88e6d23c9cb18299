"""Validation: the loss of the averaged weights on held-out records, at fixed times and with fixed noise."""

import functools
from typing import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from motif_jax import mesh as meshes
from motif_jax.config import Config
from motif_jax.model.plan import make_plan
from motif_jax.train import losses, metrics

SEED = 1234  # of the validation noise: the same in every run, whatever its own seed


def make_validation_step(cfg: Config, mesh: Mesh) -> Callable:
  """(ema, batch, index) -> ValidationMetrics of batch number `index`; a dense forward pass, without a gradient.

  Times are spread evenly over (0, 1), not drawn from the training density, so that runs with different densities compare.
  """
  plan = make_plan(cfg.model.depths)

  def validation_step(ema, batch, index):
    draws = losses.draw(jax.random.fold_in(jax.random.key(SEED), index), cfg, batch["latents"].shape, routed=False)
    count = draws.t.shape[0]
    draws = draws._replace(t=(jnp.arange(count) + 0.5) / count)
    _, parts = losses.objective({"model": ema}, cfg, batch, draws, plan)
    return metrics.ValidationMetrics.single_from_model_output(loss=parts["loss"], t=draws.t)

  jitted = jax.jit(validation_step, out_shardings=NamedSharding(mesh, P()))

  def run(ema, batch, index):
    with jax.set_mesh(mesh):
      return jitted(ema, batch, index)

  return run


def validate(step: Callable, ema: dict, batches: Iterable[tuple], mesh: Mesh) -> dict[str, float]:
  """Name -> value of the validation metrics over (bucket, host batch) pairs; empty where there are none.

  caption_gain says what the captions are worth: by how much the loss rises, as a share of it, where each sample of a batch is
  given the caption of its neighbour.  It stays at zero where captions are wrong, or do not get through to the model.
  """
  of_buckets, strangers = {}, None
  for index, (bucket, batch) in enumerate(batches):
    measured = jax.device_get(step(ema, meshes.global_batch(mesh, batch), index))
    of_buckets[bucket] = metrics.merged(of_buckets.get(bucket), measured)
    swapped = batch | {name: np.roll(batch[name], 1, axis=0) for name in ("text", "text_mask")}
    strangers = metrics.merged(strangers, step(ema, meshes.global_batch(mesh, swapped), index))
  if not of_buckets:
    return {}
  values = metrics.values_of(functools.reduce(metrics.merged, of_buckets.values()))
  gain = metrics.values_of(strangers)["loss"] / values["loss"] - 1
  return values | metrics.by_bucket(of_buckets) | {"caption_gain": gain}
