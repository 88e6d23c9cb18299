"""Digests of weights: which ones made a data set, told by every byte of them, however files are cut and names prefixed.

Reading all bytes takes about as long as loading, so a digest is remembered by the files it came from: their paths, sizes and
times of change, in a small file in the user's cache folder.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib

from motif_jax.weights import read
from motif_jax.weights.read import Tensor

PIECE = 1 << 24  # bytes hashed at once


def glance(tensors: dict[str, Tensor]) -> str:
  """Twelve hexadecimal digits of names, dtypes, shapes and of each tensor the middle entry of its first axis: milliseconds, and
  another training run changes them all.  What data sets recorded before `whole`."""
  made = hashlib.sha256()
  for name, tensor in sorted(tensors.items()):
    made.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
    middle = tuple(slice(n // 2, n // 2 + 1) if axis == 0 else slice(None) for axis, n in enumerate(tensor.shape))
    made.update(read.copy_block(tensor, middle).tobytes())
  return made.hexdigest()[:12]


def whole(tensors: dict[str, Tensor]) -> str:
  """Twelve hexadecimal digits of names, dtypes, shapes and all bytes; remembered."""
  files = sorted({tensor.file for tensor in tensors.values()})
  stats = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
  places = sorted((name, tensor.start) for name, tensor in tensors.items())
  key = hashlib.sha256(json.dumps([stats, places]).encode()).hexdigest()[:32]
  memory = cache_folder() / f"digest-{key}"
  with contextlib.suppress(OSError):
    if len(known := memory.read_text()) == 12:
      return known
  made = hashlib.sha256()
  with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
    names = sorted(tensors)
    for name, content in zip(names, pool.map(lambda name: _bytes_of(tensors[name]), names)):
      made.update(f"{name} {tensors[name].dtype} {tensors[name].shape} {content}".encode())
  with contextlib.suppress(OSError):  # a folder that cannot be written costs time, and nothing else
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_name(f"{memory.name}.{os.getpid()}")
    partial.write_text(made.hexdigest()[:12])
    partial.rename(memory)
  return made.hexdigest()[:12]


def cache_folder() -> pathlib.Path:
  """Where digests are remembered: MOTIF_JAX_CACHE, or the place for such things in the user's home folder."""
  return pathlib.Path(os.environ.get("MOTIF_JAX_CACHE") or pathlib.Path.home() / ".cache" / "motif_jax")


def _bytes_of(tensor: Tensor) -> str:
  made, left = hashlib.sha256(), tensor.stop - tensor.start
  with open(tensor.file, "rb") as file:
    file.seek(tensor.start)
    while left and (piece := file.read(min(PIECE, left))):
      made.update(piece)
      left -= len(piece)
  return made.hexdigest()
