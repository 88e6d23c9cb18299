"""Samplers: one step `(v, x, t, t_next) -> x` along dx/dt = v(x, t), and the loop that takes them from noise to data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def euler(v: Callable, x: Array, t, t_next) -> Array:
  """x at t_next by one evaluation; first order, exact where the velocity does not change."""
  return x + (t_next - t) * v(x, t)


def heun(v: Callable, x: Array, t, t_next) -> Array:
  """x at t_next by two evaluations, the mean of the slopes at both ends; second order."""
  slope = v(x, t)
  slope_next = v(x + (t_next - t) * slope, t_next)
  return x + (t_next - t) / 2 * (slope + slope_next)


def named(sampler: str) -> Callable:
  """The step function called `sampler` in SAMPLERS."""
  if sampler not in SAMPLERS:
    raise ValueError(f"{sampler!r} is not a sampler; expected one of {', '.join(SAMPLERS)}.")
  return SAMPLERS[sampler]


def integrate(v: Callable, x: Array, times: Array, sampler: str) -> Array:
  """x at times[-1], starting from x at times[0] and walking through all of `times` (steps + 1,); one `lax.scan`."""
  step = named(sampler)
  times = jnp.asarray(times)

  def body(x, interval):
    with jax.named_scope(sampler):
      return step(v, x, *interval), None

  return jax.lax.scan(body, x, (times[:-1], times[1:]))[0]


SAMPLERS = dict(euler=euler, heun=heun)
