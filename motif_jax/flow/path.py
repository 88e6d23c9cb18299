"""The straight path from data to noise.  t = 0 is data, t = 1 is noise, velocity = noise - data.

The formulas of the flow stand here and nowhere else.  `t` is a scalar or has the leading axes of the data: (B,) means one time
per sample, whatever the sizes of the other axes.
"""

import jax.numpy as jnp
from jax import Array


def interpolate(data: Array, noise: Array, t) -> Array:
  """The point of the path at time t, of the shape of `data`."""
  t = _leading(t, data)
  return (1 - t) * data + t * noise


def velocity(data: Array, noise: Array) -> Array:
  """The derivative of the path with respect to t; the same at every t."""
  return noise - data


def data_from(x_t: Array, v: Array, t) -> Array:
  """The data end of the straight path that passes through x_t at time t with velocity v."""
  return x_t - _leading(t, x_t) * v


def _leading(t, x):
  # Without this, a (B,) time would meet the *last* axis of x, silently where the sizes agree.
  t = jnp.asarray(t)
  return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
