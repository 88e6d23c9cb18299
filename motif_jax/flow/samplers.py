"""Samplers along dx/dt = v(x, t), and the loop that takes them from noise to data.

A one-step sampler is a function `(v, x, t, t_next) -> x`.  A multistep sampler (`flow/multistep.py`) remembers what it saw: its
step also takes its history and a row of numbers that follow from the grid of times alone, computed beforehand.  `Sampler` is the
form that both have in `SAMPLERS`; where a step is, and how far, only the rows know.
"""

from collections.abc import Callable
import difflib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from motif_jax.flow import multistep


class Sampler(NamedTuple):
  """How a step is taken."""

  rows: Callable  # times (steps + 1,), numpy float64 -> what each step needs to know of them, a tree of arrays (steps, ...)
  start: Callable  # x -> the history before the first step
  step: Callable  # (v, x, history, row) -> (x, history)


class Walk(NamedTuple):
  """Where a walk from noise to data has come."""

  x: Array
  history: Any  # of the sampler
  memory: Any  # of the velocity, None if it has none


def euler(v: Callable, x: Array, t, t_next) -> Array:
  """x at t_next by one evaluation; first order, exact where the velocity does not change."""
  return x + (t_next - t) * v(x, t)


def heun(v: Callable, x: Array, t, t_next) -> Array:
  """x at t_next by two evaluations, the mean of the slopes at both ends; second order."""
  slope = v(x, t)
  slope_next = v(x + (t_next - t) * slope, t_next)
  return x + (t_next - t) / 2 * (slope + slope_next)


def one_step(function: Callable) -> Sampler:
  """The `Sampler` of a function `(v, x, t, t_next) -> x`."""
  return Sampler(lambda times: (times[:-1], times[1:]), lambda x: (), lambda v, x, history, row: (function(v, x, *row), ()))


def named(sampler: str) -> Sampler:
  """The `Sampler` called `sampler` in SAMPLERS."""
  if sampler not in SAMPLERS:
    close = difflib.get_close_matches(sampler, SAMPLERS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{sampler!r} is not a sampler; expected one of {', '.join(SAMPLERS)}.{hint}")
  return SAMPLERS[sampler]


def rows_of(times, sampler: str) -> Any:
  """What each step of `sampler` along `times` (steps + 1,) needs to know: numpy arrays (steps, ...), in the dtype of `times`."""
  given = np.asarray(times)
  return jax.tree.map(lambda row: row.astype(given.dtype), named(sampler).rows(given.astype(np.float64)))


def start(x: Array, sampler: str, *, memory: Any = None) -> Walk:
  """The `Walk` at noise x."""
  return Walk(x, named(sampler).start(x), memory)


def advance(v: Callable, walk: Walk, row: Any, sampler: str) -> Walk:
  """The `Walk` after the step of one `row` of `rows_of`.

  `v` is (x, t) -> velocity; on a walk with a memory (x, t, memory) -> (velocity, memory).  A step updates the memory once, by
  its first evaluation, however many a sampler makes.
  """
  updates = []

  def remembering(x, t):
    velocity, update = v(x, t, walk.memory)
    updates.append(update)
    return velocity

  with jax.named_scope(sampler):
    x, history = named(sampler).step(v if walk.memory is None else remembering, walk.x, walk.history, row)
  return Walk(x, history, updates[0] if updates else None)


def follow(v: Callable, x: Array, rows: Any, sampler: str, *, memory: Any = None) -> Array:
  """x at the end of a walk along `rows` of `rows_of`; one `lax.scan`."""
  walk = start(x, sampler, memory=memory)
  return jax.lax.scan(lambda walk, row: (advance(v, walk, row, sampler), None), walk, rows)[0].x


def integrate(v: Callable, x: Array, times, sampler: str, *, memory: Any = None) -> Array:
  """x at times[-1], starting from x at times[0] and walking through all of `times` (steps + 1,), which are known numbers."""
  return follow(v, x, jax.tree.map(jnp.asarray, rows_of(times, sampler)), sampler, memory=memory)


SAMPLERS = {
    "euler": one_step(euler),
    "heun": one_step(heun),
    "unipc": Sampler(multistep.unipc_rows, multistep.unipc_start, multistep.unipc),
    "dpmpp": Sampler(multistep.dpmpp_rows, multistep.dpmpp_start, multistep.dpmpp),
}
