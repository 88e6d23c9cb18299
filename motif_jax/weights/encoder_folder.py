"""Folders of frozen encoders: what is in one, told from its config.json and the headers alone, and its weights on the devices."""

from collections.abc import Callable
import collections
import pathlib
import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from motif_jax import outside, sharding
from motif_jax.weights import digest, read, table as tables
from motif_jax.weights.read import Tensor
from motif_jax.weights.table import Table

STACKS = ("layers/", "blocks/")  # leaves below have a leading layer axis


class Found(NamedTuple):
  """What a folder holds, so far without its tensors."""

  path: pathlib.Path
  cfg: Any
  table: Table
  tensors: dict[str, Tensor]  # by the names of the table

  @property
  def digests(self) -> tuple[str, str]:
    """At a glance, and of every byte: both tell one set of weights from another, see `weights/digest.py`."""
    return digest.glance(self.tensors), digest.whole(self.tensors)


def find(path, *, config_of: Callable, table: Callable, own_names: Callable) -> Found:
  """What the folder at `path` holds; ValueError for what it lacks.

  Args:
    config_of: (content of config.json, dtype=name) -> the network's config.
    table: config -> its `Table`.
    own_names: names in the files -> {name in a file: name in the table}, without those that the network does not read.
  """
  path = pathlib.Path(path)
  if not (path / "config.json").is_file():
    raise ValueError(f"{path} has no config.json; expected a folder of a published model: config.json and *.safetensors.")
  content = outside.read_json(path / "config.json")
  tensors = read.index(path)
  names = own_names(tensors)
  twice = sorted(name for name, count in collections.Counter(names.values()).items() if count > 1)
  if twice:
    raise ValueError(f"{path} holds {len(twice)} tensors twice, under different prefixes: {tables.some(twice)}.")
  tensors = {own: tensors[name] for name, own in names.items()}
  try:
    cfg = config_of(content, dtype=_main_dtype(tensors))
  except (KeyError, TypeError) as e:
    raise ValueError(f"{path / 'config.json'} is not that of the model that was asked for: {e!r}.") from e
  return Found(path, cfg, table(cfg), tensors)


def load(found: Found, mesh: Mesh | None = None) -> dict:
  """The parameters, spread over fsdp and sequence of `mesh`, or on the first device; each in the dtype it was published in."""
  shardings = None if mesh is None else spread(found.table.abstract, mesh)
  return read.read_tree(found.tensors, found.table, shardings=shardings)


def spread(abstract, mesh: Mesh):
  """The tree of NamedShardings of frozen parameters: the largest axis that divides is split, vectors are whole everywhere."""
  parts = sharding.shard_count(mesh)

  def place(path, leaf):
    first = 1 if path.startswith(STACKS) else 0  # the scan over layers slices that axis
    axes = [i for i in range(first, leaf.ndim) if leaf.shape[i] % parts == 0] if leaf.ndim - first > 1 else []
    split = max(axes, key=lambda i: leaf.shape[i], default=None)
    return NamedSharding(mesh, P(*(sharding.SHARDS if i == split else None for i in range(leaf.ndim))))

  return jax.tree.unflatten(jax.tree.structure(abstract), [place(path, leaf) for path, leaf in sharding.paths_of(abstract)])


def _main_dtype(tensors) -> str:
  """The dtype of most of the bytes: that of activations."""
  sizes = collections.Counter()
  for tensor in tensors.values():
    sizes[tensor.dtype] += tensor.stop - tensor.start
  return read.DTYPES[max(sizes, key=sizes.get, default="F32")].name
