"""Multistep samplers of second order in the data prediction: UniPC-2 and DPM-Solver++ 2M, for the straight path.

Both follow x / sigma, where sigma = t and alpha = 1 - t, in the variable l = log(alpha / sigma): over a step of length h
  x_next = sigma_next / sigma x - alpha_next (e^-h - 1) (data + a correction from the change of the data prediction)
is exact for a data prediction that stays the same, and one evaluation a step gives second order with the one before.  All
coefficients follow from the times, so they are computed beforehand, in float64, one row per step; a step is a sum of products.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from motif_jax.flow import path

# At t = 1 the logarithm of alpha is infinite.  UniPC starts beside it, by as much as the reference does (diffusers 0.42.1).
NUDGE = 1e-6


class DpmppRow(NamedTuple):
  """Of a step: its time, and what is made of x and of the data predictions now and one step ago."""

  t: np.ndarray
  x: np.ndarray
  now: np.ndarray
  before: np.ndarray


def dpmpp_rows(times: np.ndarray) -> DpmppRow:
  """DPM-Solver++ 2M (Lu et al., arXiv 2211.01095, algorithm 2, midpoint form); first and last step are of first order."""
  logs, alpha, sigma = _logs(times)
  rows = []
  for i in range(len(times) - 1):
    growth = -alpha[i + 1] * np.expm1(-(logs[i + 1] - logs[i]))
    change = 0.0
    if 0 < i < len(times) - 2:
      change = 0.5 * growth * (logs[i + 1] - logs[i]) / (logs[i] - logs[i - 1])
    rows.append((times[i], sigma[i + 1] / sigma[i], growth + change, -change))
  return DpmppRow(*np.array(rows).T)


def dpmpp_start(x: Array) -> Array:
  """The data prediction before the first step, which nobody reads."""
  return jnp.zeros_like(x)


def dpmpp(v: Callable, x: Array, before: Array, row: DpmppRow) -> tuple[Array, Array]:
  """(x after the step, the data prediction made in it)."""
  now = path.data_from(x, v(x, row.t), row.t)
  return row.x * x + row.now * now + row.before * before, now


class UnipcHistory(NamedTuple):
  """What UniPC remembers: x before the last prediction, and the data predictions one and two steps ago."""

  x: Array
  before: Array
  earlier: Array


class UnipcRow(NamedTuple):
  """Of a step: its time; how x is corrected by the new data prediction; how the corrected x is moved on."""

  t: np.ndarray
  corrected: np.ndarray  # weights of x, and of the history's x, before and earlier, and of the new data prediction
  moved: np.ndarray  # weights of the corrected x, and of the data predictions now and before


def unipc_rows(times: np.ndarray) -> UnipcRow:
  """UniPC-2 with B(h) = e^-h - 1 (Zhao et al., arXiv 2302.04867, "bh2", data prediction); first and last step of first order.

  Numbers as the reference has them: the corrector's first-order weight is one half, the predictor's second-order weight too.
  """
  times = np.where(times >= 1 - NUDGE, 1 - NUDGE, times)
  logs, alpha, sigma = _logs(times)
  steps = len(times) - 1
  order = [min(2, i + 1, steps - i) for i in range(steps)]
  rows = []
  for i in range(steps):
    corrected = (1, 0, 0, 0, 0)
    if i:
      corrected = (0, *_corrected(logs[max(i - 2, 0):i + 1], alpha[i], sigma[i] / sigma[i - 1], order[i - 1]))
    growth = -alpha[i + 1] * np.expm1(-(logs[i + 1] - logs[i]))
    change = 0.5 * growth * (logs[i + 1] - logs[i]) / (logs[i] - logs[i - 1]) if order[i] == 2 else 0.0
    rows.append((times[i], corrected, (sigma[i + 1] / sigma[i], growth + change, -change)))
  return UnipcRow(*(np.array(column) for column in zip(*rows)))


def _corrected(logs, alpha, ratio, order):
  """Weights of x before the last step, of the data predictions one and two steps ago, and of the new one."""
  h = logs[-1] - logs[-2]
  growth = -alpha * np.expm1(-h)
  if order == 1:
    return ratio, growth / 2, 0, growth / 2
  # Two conditions on the two differences of data predictions, to the one before and to the new one (equation 5 of the paper).
  past = (logs[-3] - logs[-2]) / h
  first = np.expm1(-h) / -h - 1
  second = first / -h - 0.5
  to_earlier, to_now = np.linalg.solve([[1, 1], [past, 1]], np.array([first, 2 * second]) / np.expm1(-h))
  to_earlier /= past
  return ratio, growth * (1 - to_earlier - to_now), growth * to_earlier, growth * to_now


def unipc_start(x: Array) -> UnipcHistory:
  """The history before the first step, which nobody reads."""
  return UnipcHistory(*(jnp.zeros_like(x),) * 3)


def unipc(v: Callable, x: Array, history: UnipcHistory, row: UnipcRow) -> tuple[Array, UnipcHistory]:
  """(x after the step, its history)."""
  now = path.data_from(x, v(x, row.t), row.t)
  x = _sum(row.corrected, (x, *history, now))
  return _sum(row.moved, (x, now, history.before)), UnipcHistory(x, now, history.before)


def _logs(times):
  """log(alpha / sigma), alpha and sigma at `times`; minus infinity at 1, infinity at 0: differences of it are steps' lengths."""
  alpha, sigma = 1 - times, times
  with np.errstate(divide="ignore"):
    return np.log(alpha) - np.log(sigma), alpha, sigma


def _sum(weights, arrays):
  return sum(weights[i] * x for i, x in enumerate(arrays))
