"""Safetensors folders, written a tensor at a time, whole or not at all.

Everything goes into a folder with a temporary name, which gets its own name when all bytes are on the disk.
"""

from collections.abc import Callable, Mapping
import json
import math
import os
import pathlib
import shutil
import types
from typing import Any

import numpy as np

from motif_jax.weights.read import DTYPES

STEM = "diffusion_pytorch_model"  # of the files, as diffusers looks for them
FILE_BYTES = 5_000_000_000  # a file holds at most this many, or one tensor
CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_folder(folder: str | os.PathLike, config: Mapping[str, Any], tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
                 tensor_of: Callable[[str], np.ndarray], *, file_bytes: int = FILE_BYTES) -> list[str]:
  """The names of the files of a new folder: config.json and `tensors` (name -> dtype, shape), in one file or in several.

  `tensor_of` gives the values of one after another, so that the host never holds more than one.
  """
  target = pathlib.Path(folder).absolute()
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ValueError(f"{folder} exists already; name a new folder.")
  target.parent.mkdir(parents=True, exist_ok=True)
  part = target.parent / f".{target.name}.{os.getpid()}.part"
  part.mkdir()
  try:
    _write_json(part / "config.json", dict(config))
    groups = split(tensors, file_bytes)
    files = [f"{STEM}.safetensors"] if len(groups) == 1 else [
        f"{STEM}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    for file, names in zip(files, groups):
      _write_file(part / file, {name: tensors[name] for name in names}, tensor_of)
    if len(groups) > 1:
      total = sum(size_of(*tensor) for tensor in tensors.values())
      _write_json(part / f"{STEM}.safetensors.index.json", {
          "metadata": {"total_size": total}, "weight_map": {name: file for file, names in zip(files, groups) for name in names}})
    os.replace(part, target)  # also over an empty folder
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return ["config.json", *files]


def split(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], file_bytes: int) -> list[list[str]]:
  """The names of the tensors of each file, in order; wide dtypes first, so that every tensor starts at a multiple of its size."""
  groups, held = [[]], 0
  for name in tensors:
    size = size_of(*tensors[name])
    if groups[-1] and held + size > file_bytes:
      groups.append([])
      held = 0
    groups[-1].append(name)
    held += size
  return [sorted(group, key=lambda name: -tensors[name][0].itemsize) for group in groups]


def size_of(dtype: np.dtype, shape: tuple[int, ...]) -> int:
  """The bytes of a tensor."""
  return math.prod(shape) * dtype.itemsize


def write_file(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes arrays as one safetensors file, whole or not at all."""
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    _write_file(part, {name: (value.dtype, value.shape) for name, value in tensors.items()}, tensors.__getitem__, metadata)
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def _write_file(path, tensors, tensor_of, metadata=types.MappingProxyType({})):
  header, at = {"__metadata__": {"format": "pt", **metadata}}, 0  # as torch's writers say; readers ask for it
  for name, (dtype, shape) in tensors.items():
    header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [at, at + size_of(dtype, shape)]}
    at += size_of(dtype, shape)
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name, (dtype, shape) in tensors.items():
      value = np.ascontiguousarray(tensor_of(name), dtype)
      assert value.shape == tuple(shape), (name, value.shape, shape)
      file.write(value.data if value.dtype.isbuiltin == 1 else value.view(np.uint8).data)
    file.flush()
    os.fsync(file.fileno())


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=2) + "\n")
