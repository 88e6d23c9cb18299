"""What modules inside the network are given while it runs, without a word of it in the network."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from jax import Array


def given_to(module: str, measure: Callable[[Array], Array], run: Callable, *args) -> list[np.ndarray]:
  """`measure` of what each module of this name was given during `run(*args)`, a call of the network, in the order of the calls.

  `args` lie on one device: the order of calls is that of one device.
  """
  seen = []

  def intercept(call, inputs, kwargs, context):
    if context.module.name == module and context.method_name == "__call__":
      # From inside a scan, once for each block: a callback, because what is traced cannot leave the loop.
      jax.debug.callback(lambda value: seen.append(np.asarray(value)), measure(inputs[0]), ordered=True)
    return call(*inputs, **kwargs)

  with nn.intercept_methods(intercept):
    jax.block_until_ready(jax.jit(lambda *args: run(*args))(*args))  # a function of its own, traced here and cached for nobody
  jax.effects_barrier()
  return seen
