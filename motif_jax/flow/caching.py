"""Step caching: on some steps the velocity is not computed but foretold from those that were.  Inexact, and so off by default.

Which steps is known beforehand, from a calibration on exact trajectories, so that the whole walk stays one program.  The rule is
TeaCache's (Liu et al., arXiv 2411.19108), who decide while they sample: leave steps out until what that changes adds up to a
threshold.  Forecasts along a line are TaylorSeer's (Liu et al., arXiv 2503.06923), of first order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Seen(NamedTuple):
  """What a walk with foretold steps remembers."""

  step: Array  # its number, from 0
  inner: Any  # the memory of the velocity itself, which stays as it is on foretold steps
  t: Array  # of the last velocity computed
  velocity: Array
  slope: Array  # of the line in t through the last two velocities computed; zero as long as there is one


def start(x: Array, inner: Any) -> Seen:
  """The memory before the first step, on which nothing can be foretold."""
  # Infinitely far from any time: the first slope becomes zero.
  return Seen(jnp.zeros((), jnp.int32), inner, jnp.full((), jnp.inf, jnp.float32), jnp.zeros_like(x), jnp.zeros_like(x))


def cached(v: Callable, computed: Array, *, order: int) -> Callable:
  """The velocity (x, t, memory) -> (v, memory) that is computed by `v`, of the same form, on the steps where `computed` (steps,).

  On the others it is the last one computed (order 0), or on the line through the last two (order 1).  All evaluations of a step
  are computed or none; a step's memory is that of its first one (`samplers.advance`).
  """

  def compute(x, t, memory):
    velocity, inner = v(x, t, memory.inner)
    slope = (velocity - memory.velocity) / (t - memory.t)
    return velocity, Seen(memory.step + 1, inner, jnp.asarray(t, jnp.float32), velocity, slope)

  def foretell(x, t, memory):
    velocity = memory.velocity + (t - memory.t) * memory.slope if order else memory.velocity
    return velocity, memory._replace(step=memory.step + 1)

  return lambda x, t, memory: jax.lax.cond(computed[memory.step], compute, foretell, x, t, memory)


def gram(velocities: np.ndarray) -> np.ndarray:
  """Inner products (steps, steps) of the velocities (steps, ...) of exact walks: all that a schedule needs of them.

  Those of several walks add up.
  """
  flat = np.asarray(velocities).reshape(len(velocities), -1).astype(np.float64)
  return flat @ flat.T


def schedule(products: np.ndarray, times: np.ndarray, *, threshold: float, order: int) -> np.ndarray:
  """Which steps along `times` (steps + 1,) to compute, (steps,), by the inner products of the exact velocities.

  A forecast leads astray by the step's length in time times its error.  A step is left out while it and those left out just
  before it lead astray by less than `threshold` in sum, as a share of the whole way from noise to data.
  """
  lengths = -np.diff(np.asarray(times, np.float64))
  limit = threshold * np.sqrt(lengths @ products @ lengths)
  computed, known, astray = np.zeros(len(lengths), bool), (), 0.0
  for i, length in enumerate(lengths):
    astray += np.inf if not known else length * _error(products, times, i, known[-1 - order:])
    if astray >= limit:
      computed[i], known, astray = True, (*known, i), 0.0
  return computed


def schedule_of(products: np.ndarray, times: np.ndarray, *, evaluations: int, order: int) -> tuple[np.ndarray, float]:
  """(The `schedule` that computes at most so many steps, its threshold, the lowest found by bisection)."""
  low, high = 0.0, 1e3  # all steps, and none but the first
  while high - low > 1e-7:
    middle = (low + high) / 2
    few = schedule(products, times, threshold=middle, order=order).sum() <= evaluations
    low, high = (low, middle) if few else (middle, high)
  return schedule(products, times, threshold=high, order=order), high


def _error(products, times, i, known):
  """Norm of velocity i less its forecast from those of the last steps `known`, one or two."""
  weights = np.zeros(len(products))
  weights[i] = 1
  along = (times[i] - times[known[-1]]) / (times[known[-1]] - times[known[0]]) if len(known) > 1 else 0
  weights[known[-1]] -= 1 + along
  weights[known[0]] += along
  return np.sqrt(max(weights @ products @ weights, 0))
