"""Times along the path: the density that training draws from, and the grids that sampling walks, from 1 (noise) to 0 (data)."""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def shift(t, s: float):
  """Times moved towards noise for s > 1, of the shape of `t`; 0 and 1 stay.  Larger clips need it: arXiv 2403.03206, 5.3.2."""
  return s * t / (1 + (s - 1) * t)


def sample(key: Array, shape: tuple[int, ...], *, mean: float, std: float, shift: float) -> Array:
  """Training times in (0, 1), float32 of `shape`: logit-normal(mean, std), then shifted."""
  # Shifting adds log(shift) to the logit: this is shift(sigmoid(mean + std * normal), shift).
  return jax.nn.sigmoid(mean + math.log(shift) + std * jax.random.normal(key, shape, jnp.float32))


def density(t, *, mean: float, std: float, shift: float) -> Array:
  """Probability density of `sample` at times t in (0, 1), of the shape of `t`."""
  z = (jnp.log(t) - jnp.log1p(-t) - mean - math.log(shift)) / std
  return jnp.exp(-z**2 / 2) / (math.sqrt(2 * math.pi) * std * t * (1 - t))


def grid(steps: int, s: float) -> np.ndarray:
  """Sampling times 1 = t_0 > ... > t_steps = 0 shifted by s, float32 (steps + 1,).

  As the released pipeline makes them with its Euler scheduler (model.md section 3.4): linspace(1, 1 / steps), shifted, then 0.
  The scheduler's own default grid differs and is not what the release samples with.
  """
  if steps < 1 or s <= 0:
    raise ValueError(f"A sampling grid of {steps} steps with shift {s}: expected at least 1 step and a positive shift.")
  return np.append(shift(np.linspace(1, 1 / steps, steps), s), 0).astype(np.float32)


def shift_for(tokens: int, *, kind: str, between: tuple[int, int], mu: tuple[float, float]) -> float:
  """The shift of a clip of so many video tokens: mu, which is linear in tokens through (between[i], mu[i]), by `TOKEN_SHIFTS`.

  As diffusers' FlowMatchEulerDiscreteScheduler has it with use_dynamic_shifting, where `kind` is its time_shift_type.
  """
  slope = (mu[1] - mu[0]) / (between[1] - between[0])
  return TOKEN_SHIFTS[kind](mu[0] + slope * (tokens - between[0]))


def explicit(sigmas: Sequence[float]) -> np.ndarray:
  """The sampling times `sigmas`, which fall, float32; the 0 at their end may be left out."""
  return np.array(sigmas if sigmas[-1] == 0 else (*sigmas, 0), np.float32)


TOKEN_SHIFTS = {"exponential": math.exp, "linear": lambda mu: mu}
