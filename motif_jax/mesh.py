"""The device mesh: its axes, how it is made, and the two ways that activations and batches refer to it.

How a mesh becomes current: `with jax.set_mesh(mesh):` around the call of a jitted function (a context manager in jax 0.10.2 and
0.11.2 alike; `jax.sharding.use_mesh` is gone from both).  Code inside finds it with `jax.sharding.get_abstract_mesh()`, and so
does `jax.shard_map` when no mesh is given.  The current mesh is part of jit's cache key.  The step functions of `train/step.py`
enter it themselves.
"""

from collections.abc import Callable
import collections
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

  Devices are ordered by node, and `data` is the slowest axis: fsdp and sequence, which talk in every block, stay inside a node
  where they fit in one, and only the gradients of `data` travel between nodes.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _resolve((cfg.data, cfg.fsdp, cfg.sequence), len(devices))
  return Mesh(by_node(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def by_node(devices, sizes: tuple[int, int, int]) -> np.ndarray:
  """`devices` as an array of `sizes`, node after node; ValueError if a group of fsdp * sequence would lie on parts of nodes."""
  inner, counts = sizes[1] * sizes[2], sorted(set(collections.Counter(map(node_of, devices)).values()))
  if any(count % inner and inner % count for count in counts):
    fitting = [d for d in range(1, counts[0] + 1) if all(count % d == 0 for count in counts)]
    nearest = sorted(sorted(fitting, key=lambda d: abs(d - inner))[:2])
    raise ValueError(f"mesh fsdp * sequence = {inner} devices would lie on parts of nodes, which have {counts} devices; the "
                     f"nearest products that fit: {', '.join(map(str, nearest))}.")
  return np.array(sorted(devices, key=lambda d: (node_of(d), d.process_index, d.id))).reshape(sizes)


def node_of(device) -> int:
  """The number of the host, or other fast network, of a device; jax numbers them where there are several processes."""
  index = getattr(device, "slice_index", None)
  return device.process_index if index is None else index


def nodes_of(mesh: Mesh) -> int:
  """The number of nodes that the devices of `mesh` stand in."""
  return len(set(map(node_of, mesh.devices.flat)))


def crosses_nodes(mesh: Mesh) -> bool:
  """Whether some group along fsdp and sequence stands in more than one node: it works, and is slow."""
  return any(len(set(map(node_of, group.flat))) > 1 for group in mesh.devices)


def _resolve(sizes, count):
  """`sizes` with -1 replaced by what `count` devices leave for it."""
  fixed = math.prod(s for s in sizes if s != -1)
  if count % fixed or (-1 not in sizes and fixed != count):
    asked = f"a multiple of {fixed}" if -1 in sizes else fixed
    good = ", ".join(map(str, _nearest_shapes(sizes, count)))
    raise ValueError(f"mesh {AXES} = {sizes} needs {asked} devices, but there are {count}; the nearest sizes that work: {good}.")
  return tuple(count // fixed if s == -1 else s for s in sizes)


def _nearest_shapes(sizes, count):
  """Up to three shapes of exactly `count` devices, nearest to `sizes` by ratio; an axis of -1 may have any size.

  Of shapes as near, those that change few axes come first, and `data` before the axes that talk in every block.
  """
  divisors = [d for d in range(1, count + 1) if count % d == 0]
  shapes = [s for s in itertools.product(divisors, repeat=len(sizes)) if math.prod(s) == count]
  ratios = lambda shape: [abs(math.log(a / b)) for a, b in zip(shape, sizes) if b != -1]
  order = lambda shape: (round(sum(ratios(shape)), 6), sum(ratio > 0 for ratio in ratios(shape)), shape[2], shape[1])
  return sorted(shapes, key=order)[:3]


def degree(mesh, name: str | None) -> int:
  """Into how many parts `mesh` cuts the dimension called `name` (a key of ACTIVATION_AXES)."""
  return math.prod(mesh.shape[axis] for axis in ACTIVATION_AXES[name])


def parts_of(name: str | None) -> int:
  """Into how many parts the current mesh cuts the dimension called `name`; 1 where no mesh is set."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else degree(mesh, name)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """`x` pinned to the mesh axes that `names` stand for, a name per dimension; `x` itself where no mesh is set."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  _check_divides(x, names)
  return jax.lax.with_sharding_constraint(x, _spec(names))


def by_rows(x: jax.Array) -> jax.Array:
  """`x` with its rows spread like a batch's; `x` itself where there are fewer of them, or none to spread over."""
  return x if len(x) % parts_of("batch") else constrain(x, "batch", *(None,) * (x.ndim - 1))


def per_device(function: Callable, *, inputs, outputs) -> Callable:
  """`function` run by every device on its own part of its arguments (`jax.shard_map`); `function` itself without a mesh.

  `inputs` and `outputs` are trees like the arguments (a tuple, one entry each) and the result, with names as of `constrain` in
  the place of arrays.  Inside, all three axes of the mesh are there for collectives.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function
  is_names = lambda tree: isinstance(tree, tuple) and all(name is None or isinstance(name, str) for name in tree)
  specs = lambda tree: jax.tree.map(_spec, tree, is_leaf=is_names)
  # Replication is not tracked (check_vma): kernels called inside cannot state it, and tests compare with one device.
  spread = jax.shard_map(function, in_specs=specs(inputs), out_specs=specs(outputs), check_vma=False)

  def checked(*arguments):
    jax.tree.map(lambda names, x: _check_divides(x, names), inputs, arguments, is_leaf=is_names)
    return spread(*arguments)

  return checked


def whole_features(x: jax.Array, count: int) -> jax.Array:
  """`x` with its last `count` axes whole on every device and the others as they are; `x` itself where no mesh is set."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(*(P.UNCONSTRAINED,) * (x.ndim - count), *(None,) * count))


def _spec(names) -> P:
  return P(*(ACTIVATION_AXES[name] or None for name in names))


def _check_divides(x, names):
  assert len(names) == x.ndim, f"{len(names)} names {names} for an array of shape {x.shape}"
  for dimension, name in zip(x.shape, names):
    parts = parts_of(name)
    if dimension % parts:
      raise ValueError(f"the {name} dimension of shape {x.shape} is {dimension}, which does not divide by the {parts} devices "
                       f"along mesh axes {ACTIVATION_AXES[name]}; change the size, or the mesh.")


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of every array of a batch: rows over data and fsdp, the rest replicated."""
  return NamedSharding(mesh, P(ACTIVATION_AXES["batch"]))


def batch_share(mesh: Mesh) -> tuple[int, int]:
  """(index, count): this process reads part `index` of the `count` equal parts of every batch.

  Processes that share a sequence read the same part.
  """
  parts = degree(mesh, "batch")
  ours = {index[0].indices(parts)[0] for index in batch_sharding(mesh).addressable_devices_indices_map((parts,)).values()}
  first, size = min(ours), len(ours)
  assert ours == set(range(first, first + size)) and first % size == 0 and parts % size == 0, (ours, parts)
  return first // size, parts // size


def global_batch(mesh: Mesh, host_batch):
  """The tree `host_batch` of numpy arrays as global arrays, rows sharded over data and fsdp.

  With several processes each passes its own rows, see `batch_share`, and the result holds all of them.
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
