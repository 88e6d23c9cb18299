"""Guidance wraps the velocity, so that a sampler never hears of it.

`velocity_pair(x, t)` returns the velocities with and without the condition; `guided` makes one velocity `(x, t)` of the two.
A rule is a function `(cond, uncond, scale) -> velocity`: another kind of guidance is another rule.
"""

from collections.abc import Callable

import jax
from jax import Array


def classifier_free(cond: Array, uncond: Array, scale) -> Array:
  """The velocity extrapolated from `uncond` through `cond`; `cond` at scale 1.  Ho and Salimans, arXiv 2207.12598."""
  return uncond + scale * (cond - uncond)


def guided(velocity_pair: Callable, scale, *, rule: Callable = classifier_free) -> Callable:
  """The velocity `(x, t) -> v` in which `rule` combines the two that `velocity_pair` returns."""

  def v(x, t):
    cond, uncond = velocity_pair(x, t)
    with jax.named_scope("guidance"):
      return rule(cond, uncond, scale)

  return v
