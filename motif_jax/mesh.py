"""The device mesh: its axes, how it is made, and the two ways that activations and batches refer to it.

How a mesh becomes current: `with jax.set_mesh(mesh):` around the call of a jitted function (a context manager in jax 0.10.2 and
0.11.2 alike; `jax.sharding.use_mesh` is gone from both).  Code inside finds it with `jax.sharding.get_abstract_mesh()`, and so
does `jax.shard_map` when no mesh is given.  The current mesh is part of jit's cache key.  The step functions of `train/step.py`
enter it themselves.
"""

import itertools
import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import numpy as np

from motif_jax.config import MeshConfig

AXES = ("data", "fsdp", "sequence")

# What the words of `constrain` stand for.  Text is replicated over `sequence`, so it has no word of its own: None.
ACTIVATION_AXES = {"batch": ("data", "fsdp"), "video": ("sequence",), None: ()}


def make_mesh(cfg: MeshConfig, *, devices=None) -> Mesh:
  """The mesh (data, fsdp, sequence) over `devices` (default: all of them), with -1 resolved.

  Devices are ordered by process, and `data` is the slowest axis: fsdp and sequence stay inside a node where they fit in one.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _resolve((cfg.data, cfg.fsdp, cfg.sequence), len(devices))
  # Auto written out: jax.make_mesh defaults to Explicit.  The first argument by position: its name differs between versions.
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _resolve(sizes, count):
  """`sizes` with -1 replaced by what `count` devices leave for it."""
  fixed = math.prod(s for s in sizes if s != -1)
  if count % fixed or (-1 not in sizes and fixed != count):
    asked = f"a multiple of {fixed}" if -1 in sizes else fixed
    good = ", ".join(map(str, _nearest_shapes(sizes, count)))
    raise ValueError(f"mesh {AXES} = {sizes} needs {asked} devices, but there are {count}; the nearest sizes that work: {good}.")
  return tuple(count // fixed if s == -1 else s for s in sizes)


def _nearest_shapes(sizes, count):
  """Up to three shapes of exactly `count` devices, nearest to `sizes` by ratio; an axis of -1 may have any size."""
  divisors = [d for d in range(1, count + 1) if count % d == 0]
  shapes = [s for s in itertools.product(divisors, repeat=len(sizes)) if math.prod(s) == count]
  distance = lambda shape: sum(abs(math.log(a / b)) for a, b in zip(shape, sizes) if b != -1)
  return sorted(shapes, key=distance)[:3]


def degree(mesh, name: str | None) -> int:
  """Into how many parts `mesh` cuts the dimension called `name` (a key of ACTIVATION_AXES)."""
  return math.prod(mesh.shape[axis] for axis in ACTIVATION_AXES[name])


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """`x` pinned to the mesh axes that `names` stand for, a name per dimension; `x` itself where no mesh is set."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  assert len(names) == x.ndim, f"{len(names)} names {names} for an array of shape {x.shape}"
  for dimension, name in zip(x.shape, names):
    if dimension % degree(mesh, name):
      raise ValueError(f"the {name} dimension of shape {x.shape} is {dimension}, which does not divide by the "
                       f"{degree(mesh, name)} devices along mesh axes {ACTIVATION_AXES[name]}; change the size, or the mesh.")
  return jax.lax.with_sharding_constraint(x, P(*(ACTIVATION_AXES[name] or None for name in names)))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of every array of a batch: rows over data and fsdp, the rest replicated."""
  return NamedSharding(mesh, P(ACTIVATION_AXES["batch"]))


def global_batch(mesh: Mesh, host_batch):
  """The tree `host_batch` of numpy arrays as global arrays, rows sharded over data and fsdp.

  With several processes each passes its own rows, in the order of the processes, and the result holds all of them.
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), host_batch)


def check_batch_size(mesh: Mesh, batch_size: int, *, accumulate: int = 1) -> None:
  """Raises ValueError unless the rows of each of `accumulate` microbatches can be dealt evenly to the mesh."""
  parts = degree(mesh, "batch") * accumulate
  if batch_size % parts:
    low = batch_size // parts * parts
    good = f"{low}, {low + parts}" if low else f"{parts}"
    product = f"data * fsdp * train.accumulate = {parts}" if accumulate > 1 else f"data * fsdp = {parts} of the mesh"
    raise ValueError(f"data.batch_size {batch_size} does not divide by {product}; the nearest sizes that do: {good}.")
