"""What stands in files of tensors, part by part: counts, dtypes, sizes of the values, and any that are no numbers."""

from collections.abc import Mapping
import math
import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from motif_jax.weights import read

CHUNK = 1 << 22  # elements looked at at once


class Part(NamedTuple):
  """The tensors of one part, of all layers together."""

  tensors: int
  elements: int
  dtypes: tuple[str, ...]
  rms: float  # root of the mean square
  largest: float
  bad: int  # not finite


def part_of(name: str) -> str:
  """The part that a tensor belongs to: its name up to what follows the first number, which stands for all layers as "*"."""
  pieces = name.split(".")
  number = next((i for i, piece in enumerate(pieces) if piece.isdigit()), None)
  kept = pieces[:1] if number is None else [*pieces[:number], "*", *pieces[number + 1:number + 2]]
  return ".".join(kept)


def parts(tensors: Mapping[str, read.Tensor], *, values: bool = True) -> dict[str, Part]:
  """Part -> what stands in it, in the order of the names; without `values` nothing but headers is read."""
  grouped = {}
  for name, tensor in tensors.items():
    grouped.setdefault(part_of(name), []).append(tensor)
  return {name: _part(grouped[name], values) for name in sorted(grouped)}


def _part(tensors, values):
  squares, largest, bad = 0.0, 0.0, 0
  for tensor in tensors if values else ():
    for x in chunks(tensor):
      finite = np.isfinite(x)
      bad += x.size - int(finite.sum())
      x = np.where(finite, x, 0)
      squares += float(np.sum(np.square(x), dtype=np.float64))
      largest = max(largest, float(np.max(np.abs(x), initial=0)))
  count = sum(math.prod(tensor.shape) for tensor in tensors)
  dtypes = tuple(sorted({tensor.dtype for tensor in tensors}))
  return Part(len(tensors), count, dtypes, math.sqrt(squares / max(count, 1)), largest, bad)


def chunks(tensor: read.Tensor):
  """Yields the floating-point values of a tensor, float32, some rows at a time; nothing of a tensor of other numbers."""
  if tensor.dtype not in read.DTYPES or not jnp.issubdtype(read.DTYPES[tensor.dtype], jnp.floating):
    return
  if not tensor.shape:
    yield read.copy_block(tensor, ()).astype(np.float32)
    return
  rows = max(1, CHUNK // max(1, math.prod(tensor.shape[1:])))
  for start in range(0, tensor.shape[0], rows):
    yield read.copy_block(tensor, (slice(start, start + rows),)).astype(np.float32)


def dtypes(tensors: Mapping[str, read.Tensor]) -> str:
  """How many tensors there are of each dtype, the rarest with their names where they are few."""
  found = {}
  for name, tensor in tensors.items():
    found.setdefault(tensor.dtype, []).append(name)
  said = []
  for dtype, names in sorted(found.items(), key=lambda item: -len(item[1])):
    few = f" ({', '.join(sorted({re.sub(r'[.][0-9]+[.]', '.*.', name) for name in names})[:8])})" if said else ""
    said.append(f"{len(names)} {dtype}{few}")
  return ", ".join(said)
