"""What modules inside the network are given and give while it runs, without a word of it in the network."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Call(NamedTuple):
  """A module that ran."""

  path: str  # where its parameters lie below the module that was observed, such as "video/attention"; "" for itself
  inputs: tuple
  outputs: Any


def with_calls(run: Callable, *args) -> tuple[Any, list[Call]]:
  """(what `run(*args)` gives, the calls of modules in it, in the order in which they came to an end).

  Arrays in the calls are those of the trace under way: what is made of them is returned from the same loop body.
  """
  seen = []

  def intercept(call, inputs, kwargs, context):
    outputs = call(*inputs, **kwargs)
    if context.method_name == "__call__":
      seen.append(Call("/".join(context.module.path), inputs, outputs))
    return outputs

  with nn.intercept_methods(intercept):
    result = run(*args)
  return result, seen
