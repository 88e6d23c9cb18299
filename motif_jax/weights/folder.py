"""A diffusers folder of the transformer, understood and read: config.json, headers, layout, and then the parameters."""

from collections import Counter
from collections.abc import Mapping
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from motif_jax import outside
from motif_jax.config import ModelConfig
from motif_jax.weights import diffusers_config, layout as layouts, names, read, table as tables
from motif_jax.weights.layout import Layout

INDEX = "model_index.json"  # of a pipeline, whose transformer is one of several folders


class Found(NamedTuple):
  """What a folder holds, so far without its tensors."""

  path: pathlib.Path
  config: dict  # config.json
  tensors: dict[str, read.Tensor]
  layout: Layout
  fields: dict[str, Any]  # of ModelConfig, that say what the network is


def is_one(path: pathlib.Path) -> bool:
  """Whether `path` is a folder as diffusers writes them, of the transformer or of a pipeline."""
  return (path / "config.json").is_file() or (path / INDEX).is_file()


def find(folder: str | os.PathLike, *, rope_theta: float | None = None) -> Found:
  """The transformer in `folder`, or in the folder `transformer` of a pipeline.  ValueError lists all that is wrong with it."""
  found, faults = examine(folder, rope_theta=rope_theta)
  if faults:
    raise ValueError(f"{found.path} cannot be read, {len(faults)} fault(s):\n" + "\n".join(f"  - {fault}" for fault in faults))
  return found


def examine(folder: str | os.PathLike, *, rope_theta: float | None = None) -> tuple[Found, list[str]]:
  """(what `folder` holds, what is wrong with it): files, config, layout, and every name and shape."""
  path = pathlib.Path(folder)
  path = path / "transformer" if (path / INDEX).is_file() else path
  tensors, faults = read.scan(path)
  layout, wrong = layouts.detect(tensors)
  faults += wrong
  config, wrong = _config(path if path.is_dir() else path.parent)
  faults += wrong if path.exists() else []
  if config is None:
    return Found(path, {}, tensors, layout, {}), faults
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  fields, wrong = diffusers_config.to_ours(config, shapes, layout, rope_theta=rope_theta)
  faults += wrong
  found = Found(path, config, tensors, layout, fields)
  if fields and tensors:
    try:
      expected = tables.their_shapes(table_of(found))
      faults += tables.faults(shapes, expected)
    except (ValueError, ZeroDivisionError) as e:  # sizes that no network has; why is said above
      faults.append(f"no network has the sizes of this config: {e}")
  return found, faults


def model_config(found: Found, **run_time) -> ModelConfig:
  """The ModelConfig of a folder; `run_time` are the fields that say how it runs: dtype, remat, unroll, attention."""
  return ModelConfig(**found.fields, **run_time)


def table_of(found: Found) -> tables.Table:
  """The table of the folder's layout."""
  return names.table(model_config(found, dtype="float32", remat="none", unroll=1, attention="xla"), found.layout.name)


def read_params(found: Found, *, shardings=None, dtype=None) -> dict:
  """The parameters of the model, each device's part read for it; see `read.read_tree`."""
  return read.read_tree(found.tensors, table_of(found), shardings=shardings, dtype=dtype)


def main_dtype(tensors: Mapping[str, read.Tensor]) -> str:
  """The dtype that most elements of a folder have, as numpy names it."""
  sizes = Counter()
  for tensor in tensors.values():
    sizes[tensor.dtype] += math.prod(tensor.shape)
  return str(np.dtype(read.DTYPES[sizes.most_common(1)[0][0]]))


def _config(path) -> tuple[dict | None, list[str]]:
  try:
    said = outside.read_json(path / "config.json")
    if not isinstance(said, dict):
      raise ValueError(f"it holds a {type(said).__name__}, expected an object.")
    return said, []
  except FileNotFoundError:
    return None, [f"there is no config.json; put the one of the weights there (its keys: {', '.join(diffusers_config.KEYS)})."]
  except (OSError, ValueError) as e:
    return None, [f"config.json cannot be read: {e}"]
