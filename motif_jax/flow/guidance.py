"""Guidance wraps the velocity, so that a sampler never hears of it.

`velocity_pair(x, t)` returns the velocities with and without the condition; a `Rule` makes one of the two.  A rule may remember
something from step to step, so the guided velocity is `(x, t, memory) -> (velocity, memory)`, as `samplers.advance` takes it.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

FRAME_AXES = (-3, -2, -1)  # of (B, F, H, W, C): one latent frame at a time


class Rule(NamedTuple):
  """How two velocities become one."""

  combine: Callable  # (cond, uncond, memory) -> (velocity, memory)
  start: Callable = lambda x: ()  # x -> the memory before the first step


def classifier_free(scale: float, *, rescale: float = 0.0) -> Rule:
  """The velocity extrapolated from `uncond` through `cond`; `cond` at scale 1.  Ho and Salimans, arXiv 2207.12598.

  With `rescale` that share of the result has the standard deviation of `cond`, per sample (Lin et al., arXiv 2305.08891, 3.4).
  """
  return Rule(lambda cond, uncond, memory: (_rescaled(uncond + scale * (cond - uncond), cond, rescale), memory))


def projected(scale: float, *, momentum: float = 0.1, threshold: float = 12.0, eta: float = 0.0,
              axes: tuple[int, ...] = FRAME_AXES, rescale: float = 0.0) -> Rule:
  """Adaptive projected guidance (Sadat et al., arXiv 2410.02416), in the release's form: `cond` + scale * update.

  The difference cond - uncond, summed over steps with the weight `momentum` for the past, is shortened to the length `threshold`
  (0: never), and of its part along `cond` only the share `eta` is kept; lengths and parts over `axes`.  diffusers' defaults
  differ: eta 1 keeps all of that part, and its lengths are those of whole clips.
  """

  def combine(cond, uncond, memory):
    memory = cond - uncond + momentum * memory
    update = memory
    if threshold:
      update = update * jnp.minimum(1.0, threshold / jnp.maximum(_length(update, axes), 1e-12))
    unit = cond / jnp.maximum(_length(cond, axes), 1e-12)
    along = jnp.sum(update * unit, axis=axes, keepdims=True) * unit
    return _rescaled(cond + scale * (update - (1 - eta) * along), cond, rescale), memory

  return Rule(combine, jnp.zeros_like)


def rule_of(how) -> Rule | None:
  """The `Rule` that `how` describes: rule, a key of RULES, scale, rescale, momentum, threshold, eta (`config.GuidanceConfig`).

  None where it would give the conditional velocity, so that the other one need not be made.
  """
  make, idle = RULES[how.rule]
  if how.scale == idle:
    return None
  own = dict(momentum=how.momentum, threshold=how.threshold, eta=how.eta) if make is projected else {}
  return make(how.scale, rescale=how.rescale, **own)


def guided(velocity_pair: Callable, rule: Rule) -> Callable:
  """The velocity `(x, t, memory) -> (v, memory)` in which `rule` combines the two that `velocity_pair` returns."""

  def v(x: Array, t, memory: Any) -> tuple[Array, Any]:
    cond, uncond = velocity_pair(x, t)
    with jax.named_scope("guidance"):
      return rule.combine(cond, uncond, memory)

  return v


def within(interval: tuple[float, float], v: Callable, outside: Callable) -> Callable:
  """The velocity `v` at times in `interval` (from, to), both included, and `outside` (x, t) elsewhere, where memory stays.

  Guidance in an interval: Kynkäänniemi et al., arXiv 2404.07724.
  """
  low, high = interval
  if (low, high) == (0, 1):
    return v
  alone = lambda x, t, memory: (outside(x, t), memory)
  return lambda x, t, memory: jax.lax.cond((low <= t) & (t <= high), v, alone, x, t, memory)


def _length(x, axes):
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))


def _rescaled(velocity, cond, share):
  if not share:
    return velocity
  deviation = functools.partial(jnp.std, axis=tuple(range(1, cond.ndim)), keepdims=True, ddof=1)
  return velocity * (share * deviation(cond) / deviation(velocity) + 1 - share)


# Each with the scale at which it changes nothing.
RULES = {"classifier_free": (classifier_free, 1.0), "projected": (projected, 0.0)}
