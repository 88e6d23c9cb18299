"""Validation: the loss of the averaged weights on held-out records, at fixed times and with fixed noise."""

from typing import Callable, Iterable

import jax
import jax.numpy as jnp
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

  def step(ema, batch, index):
    draws = losses.draw(jax.random.fold_in(jax.random.key(SEED), index), cfg, batch["latents"].shape, routed=False)
    count = draws.t.shape[0]
    draws = draws._replace(t=(jnp.arange(count) + 0.5) / count)
    _, parts = losses.objective({"model": ema}, cfg, batch, draws, plan)
    return metrics.ValidationMetrics.single_from_model_output(loss=parts["loss"], t=draws.t)

  jitted = jax.jit(step, out_shardings=NamedSharding(mesh, P()))

  def run(ema, batch, index):
    with jax.set_mesh(mesh):
      return jitted(ema, batch, index)

  return run


def validate(step: Callable, ema: dict, batches: Iterable[dict], mesh: Mesh) -> dict[str, float]:
  """Name -> value of the validation metrics over host `batches`; empty where there are none."""
  total = None
  for index, batch in enumerate(batches):
    total = metrics.merged(total, step(ema, meshes.global_batch(mesh, batch), index))
  return {} if total is None else metrics.values_of(total)
