"""Safetensors files straight into sharded arrays: headers first, then of each tensor only what the devices of this process need.

Headers are read by `header`, so that every fault of every file is found before anything is read, and bytes are copied out of a
memory map, so that the host holds one tensor beside what is asked for.
"""

from collections.abc import Mapping
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from motif_jax import outside
from motif_jax.weights import header, table as tables
from motif_jax.weights.header import DTYPES, Tensor
from motif_jax.weights.table import Table


def index(folder: str | os.PathLike) -> dict[str, Tensor]:
  """Name -> where it stands, of all tensors of a folder (see `scan`), from the headers alone.  ValueError lists every fault."""
  tensors, faults = scan(folder)
  unknown = sorted(f"{name} ({tensor.dtype[:20]})" for name, tensor in tensors.items() if tensor.dtype not in DTYPES)
  _raise(folder, faults + ([f"{len(unknown)} are of unknown dtypes: {tables.some(unknown)}."] if unknown else []))
  return tensors


def scan(folder: str | os.PathLike) -> tuple[dict[str, Tensor], list[str]]:
  """(name -> where it stands, what is wrong) of a folder of safetensors files, of one such file, or of one index.

  A folder's index, where it has one, says which of its files count.
  """
  found, faults = {}, []
  for file, expected in _files(pathlib.Path(folder), faults).items():
    try:
      tensors = header.tensors_of(file)
    except (OSError, ValueError) as e:
      faults.append(f"{file.name}: {e}")
      continue
    twice = sorted(set(found) & set(tensors))
    if twice:
      faults.append(f"{file.name} holds {len(twice)} tensors that another file holds too: {tables.some(twice)}; leave one of the "
                    "files in the folder, or name the file to read instead of the folder.")
    absent = sorted(expected - set(tensors))
    if absent:
      faults.append(f"{file.name} lacks {len(absent)} tensors that the index says it has: {tables.some(absent)}; take "
                    "index and files of one export.")
    found |= tensors
  return found, faults


def read_tree(source: str | os.PathLike | Mapping[str, Tensor], table: Table, *, shardings=None, dtype=None) -> dict:
  """The parameters of `table` from a folder, or from (a part of) the `index` of one, as arrays on the devices of `shardings`.

  Args:
    shardings: a tree like the parameters; the first device of this process if not given.
    dtype: of all parameters; None keeps each tensor's, and the widest of them where the layers of a stack differ.
  """
  tensors, wrong = (source, []) if isinstance(source, Mapping) else scan(source)
  shapes = tables.their_shapes(table)
  faults = wrong + tables.faults({name: tensor.shape for name, tensor in tensors.items()}, shapes)
  faults += _unreadable({name: tensors[name] for name in shapes if name in tensors}, dtype)
  _raise("the tensors" if isinstance(source, Mapping) else source, faults)
  abstract = flatten_dict(table.abstract, sep="/")
  places = flatten_dict(shardings, sep="/") if shardings else {}
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return unflatten_dict({row.ours: _read(row, tensors, abstract[row.ours].shape, places.get(row.ours, here), dtype, table.sizes)
                         for row in table.rows}, sep="/")


def metadata(folder: str | os.PathLike) -> dict[str, str]:
  """What the file, or the only file of a folder, says of itself beside its tensors."""
  path, = _files(pathlib.Path(folder), [])
  return header.metadata_of(path)


def copy_block(tensor: Tensor, block: tables.Index) -> np.ndarray:
  """A copy of one block of a tensor.  All bytes of tensors come through here, and no others are touched."""
  if not math.prod(tensor.shape):
    return np.zeros(tensor.shape, DTYPES[tensor.dtype])[block]
  mapped = np.memmap(tensor.file, DTYPES[tensor.dtype], "r", tensor.start, tensor.shape)
  return np.array(mapped[block])  # and the map is gone


def _files(path, faults) -> dict[pathlib.Path, set[str]]:
  """File -> the tensors that an index says it has."""
  try:
    indexes = sorted(path.glob("*.index.json")) if path.is_dir() else [path] if path.name.endswith(".json") else []
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(indexes) > 1:
      faults.append(f"there are several indexes: {', '.join(i.name for i in indexes)}; name one of them instead of the folder.")
    elif indexes:
      return _indexed(indexes[0])
    elif not files:
      faults.append(f"no *.safetensors in it; {'it is empty' if not any(path.iterdir()) else 'is it the right folder?'}")
    elif not path.exists():
      faults.append("there is no such folder or file.")
    else:
      return {file: set() for file in files}
  except (OSError, ValueError) as e:
    faults.append(str(e))
  return {}


def _indexed(file):
  try:
    placed = outside.read_json(file)["weight_map"]
    names = {}
    for name, part in placed.items():
      if part in ("", "..") or pathlib.PurePath(part).name != part:
        raise ValueError(f"{part[:60]!r} is not the name of a file beside it")
      names.setdefault(file.parent / part, set()).add(name)
    return names
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    raise ValueError(f"{file.name} is no index of safetensors files, a JSON object with a weight_map: {e!r}.") from e


def _unreadable(named, dtype) -> list[str]:
  """Tensors of the table whose dtype cannot become that of a parameter."""
  floats = [key for key, kind in DTYPES.items() if jnp.issubdtype(kind, jnp.floating)]
  odd = sorted(f"{name} ({tensor.dtype})" for name, tensor in named.items() if tensor.dtype not in floats)
  wide = sorted(name for name, tensor in named.items() if tensor.dtype == "F64") if dtype is None else []
  faults = [f"{len(odd)} are no floating-point tensors: {tables.some(odd)}; quantised checkpoints are not read."] if odd else []
  return faults + ([f"{len(wide)} are float64: {tables.some(wide)}; ask for dtype='float32'."] if wide else [])


def _read(row, tensors, shape, sharding, dtype, sizes) -> jax.Array:
  """The parameter of `row`, of which each device gets its part."""
  sources = [tensors[name] for name in row.names()]
  layer_shape = shape if row.layers is None else shape[1:]
  kind = np.dtype(dtype or jnp.result_type(*(DTYPES[source.dtype] for source in sources)))

  def layer(source, index):
    block, known, rest = tables.block_of(row, source.shape, layer_shape, index, sizes)
    return tables.rearranged(copy_block(source, block), row.how, known)[rest]

  def part(index):
    if row.layers is None:
      return np.ascontiguousarray(layer(sources[0], index), dtype=kind)
    wanted = sources[index[0]]
    out = np.empty((len(wanted), *(len(range(*s.indices(n))) for s, n in zip(index[1:], layer_shape))), kind)
    for i, source in enumerate(wanted):
      out[i] = layer(source, index[1:])
    return out

  # Devices that hold the same part get the same copy: jax asks once for each device.
  made, uses = {}, {}
  spans = lambda index: tuple(s.indices(n)[:2] for s, n in zip(index, shape))
  for index in sharding.addressable_devices_indices_map(shape).values():
    uses[spans(index)] = uses.get(spans(index), 0) + 1

  def once(index):
    key = spans(index)
    if key not in made:
      made[key] = part(index)
    uses[key] -= 1
    return made[key] if uses[key] > 0 else made.pop(key)

  return jax.make_array_from_callback(shape, sharding, once)


def _raise(folder, faults):
  if faults:
    raise ValueError(f"{folder} cannot be read, {len(faults)} fault(s):\n" + "\n".join(f"  - {fault}" for fault in faults))
