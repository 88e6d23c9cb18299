"""The header of a safetensors file, checked to the last number before a byte of a tensor is read or its memory asked for.

A file is 8 bytes of header length, the header in JSON (name -> dtype, shape, byte range), and the bytes of the tensors
(huggingface.co/docs/safetensors).
"""

import math
import os
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from motif_jax import outside
from motif_jax.weights import table as tables

DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn), "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}
# The format allows 100 million bytes; 80 thousand tensors need 10, and a header is many times as large once it is read.
LARGEST = 10_000_000
MOST_AXES = 32


class Tensor(NamedTuple):
  """Where a tensor stands: bytes [start, stop) of a file."""

  file: pathlib.Path
  dtype: str  # a key of DTYPES
  shape: tuple[int, ...]
  start: int
  stop: int


def tensors_of(file: pathlib.Path) -> dict[str, Tensor]:
  """The tensors of one file; OSError or ValueError says why it is no whole safetensors file."""
  said, begin, size = _read(file)
  tensors = {}
  for name, entry in said.items():
    if name != "__metadata__":
      if not _is_entry(entry):
        raise ValueError(f"its header is not that of a safetensors file ({name[:60]!r} has no dtype, shape and byte range that "
                         "could be); fetch it again.")
      tensors[name] = Tensor(file, entry["dtype"], tuple(entry["shape"]), *(begin + at for at in entry["data_offsets"]))
  end = max((tensor.stop for tensor in tensors.values()), default=begin)
  if end > size:
    cut = sorted(name for name, tensor in tensors.items() if tensor.stop > size)
    raise ValueError(f"truncated: {size:,} bytes of {end:,}, {len(cut)} tensors are cut: {tables.some(cut)}; fetch it again.")
  odd = sorted(name for name, t in tensors.items() if t.dtype in DTYPES
               and t.stop - t.start != math.prod(t.shape) * DTYPES[t.dtype].itemsize)
  if odd:
    raise ValueError(f"{len(odd)} tensors have other byte ranges than their shapes: {tables.some(odd)}; fetch it again.")
  places = sorted((t.start, t.stop, name) for name, t in tensors.items() if t.stop > t.start)
  over = [f"{name} and {after}" for (_, stop, name), (start, _, after) in zip(places, places[1:]) if start < stop]
  if over:
    raise ValueError(f"{len(over)} tensors lie over one another: {tables.some(over)}; fetch it again.")
  return tensors


def metadata_of(file: str | os.PathLike) -> dict[str, str]:
  """The text that the writer of a file left in its header; OSError or ValueError as above."""
  said = _read(pathlib.Path(file))[0].get("__metadata__", {})
  if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
    raise ValueError("the metadata in its header are no texts; fetch it again.")
  return said


def _read(file):
  """(the header as JSON has it, the place of the first byte behind it, the bytes of the file)."""
  size = file.stat().st_size
  with open(file, "rb") as opened:
    length = int.from_bytes(opened.read(8), "little")
    if size < 8 or length > size - 8:
      raise ValueError(f"{size:,} bytes that are no safetensors file, or the first bytes of one; fetch it again.")
    if length > LARGEST:
      raise ValueError(f"a header of {length:,} bytes, expected at most {LARGEST:,}; is it a safetensors file of a model?")
    text = opened.read(length)
  try:
    said = outside.parsed(text)
  except ValueError as e:
    raise ValueError(f"its header is not that of a safetensors file ({e}); fetch it again.") from e
  if not isinstance(said, dict):
    raise ValueError(f"its header is not that of a safetensors file (a {type(said).__name__}); fetch it again.")
  return said, 8 + length, size


def _is_entry(entry) -> bool:
  counts = lambda numbers: isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
  return (isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"} and isinstance(entry["dtype"], str)
          and counts(entry["shape"]) and len(entry["shape"]) <= MOST_AXES and counts(entry["data_offsets"])
          and len(entry["data_offsets"]) == 2 and entry["data_offsets"][0] <= entry["data_offsets"][1])
