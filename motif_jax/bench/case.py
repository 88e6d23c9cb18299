"""A case: one thing to measure, with the work that it is, said before it runs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from motif_jax.bench.sizes import Sizes
from motif_jax.config import Config


class Prepared(NamedTuple):
  """What is compiled and called."""

  function: Callable  # jitted
  inputs: list[tuple]  # sets of arguments, which calls take in turn: one set again and again would lie in the cache
  carry: bool = False  # the first result is the first argument of the next call: a donated state
  mesh: Mesh | None = None  # current while it is compiled


@dataclasses.dataclass(frozen=True)
class Case:
  """One thing to measure.

  `name` is "group/what/...", unique; `settings` says in JSON all that the figure depends on beside device, jax and commit.
  FLOPs are of one device: `model` is what the result needs, `executed` what this way of computing it does.
  """

  name: str
  settings: dict
  prepare: Callable[[], Prepared] | None = None
  model: float = 0.0
  executed: float = 0.0
  dtype: str = "bfloat16"  # of the products: whose ceiling counts
  refusal: str = ""  # why it is not even tried here
  measure: Callable[[], dict] | None = None  # instead of timing `prepare`: what to record

  @property
  def group(self) -> str:
    return self.name.partition("/")[0]


@dataclasses.dataclass(frozen=True)
class Job:
  """What the cases are made for."""

  sizes: Sizes
  load: Callable[[str], Config]  # name of a config -> the config, ready for this device
  memory: float  # bytes of a device
  changed: dict  # config keys that the user has set, which belong to the settings of every case that reads a config


def normals(seed: int, *shapes: tuple[int, ...], dtype: Any = "float32") -> list[jax.Array]:
  """Random arrays of these shapes: on zeros a device draws less power and runs faster than on data."""
  keys = jax.random.split(jax.random.key(seed), len(shapes))
  return [_normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


def sets_of(count_bytes: float) -> int:
  """How many sets of inputs of so many bytes exceed a device's cache together (60 MB on an H200), at most 8."""
  return int(min(8, max(1, -(-256e6 // count_bytes))))


def lively(params: dict, seed: int = 0) -> dict:
  """`params` with a little noise on every leaf: as initialised, gates and outputs are zero, and half of the rest."""
  leaves, tree = jax.tree.flatten(params)
  return jax.tree.unflatten(tree, [_noisy(x, jax.random.fold_in(jax.random.key(seed), i)) for i, x in enumerate(leaves)])


@functools.partial(jax.jit, donate_argnums=0)
def _noisy(x, key):
  return x + 0.02 * jax.random.normal(key, x.shape, x.dtype)


_normal = jax.jit(lambda key, shape, dtype: jax.random.normal(key, shape, jnp.dtype(dtype)), static_argnums=(1, 2))
