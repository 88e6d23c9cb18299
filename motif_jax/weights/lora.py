"""Adapters as files: the safetensors that diffusers' `load_lora_adapter` (PEFT) reads and writes, `MODULE.lora_A.weight`.

Their module is a linear layer of theirs, ours a part of one (attention and MLP share `proj_out` there); `weights/names.py` says
which.  Scales (alpha / rank) are multiplied into B when an adapter goes out, so that a file means the same to every reader.
"""

from collections.abc import Mapping
import json
import math
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from motif_jax import outside
from motif_jax.config import ModelConfig
from motif_jax.model import lora
from motif_jax.weights import names, read, save, table as tables
from motif_jax.weights.table import Row, Table

PREFIX = "transformer."
METADATA = "motif_jax"  # our own word in a file: what the adapter was trained on
THEIRS = "lora_adapter_metadata"  # PEFT's: rank and alpha, also by module


class Adapter(NamedTuple):
  """An adapter that was read."""

  tree: dict  # path -> {"down", "up"}, float32, the scale multiplied in
  said: dict  # what our own metadata says; empty for files of others


def write(file: str | os.PathLike, adapter: Mapping, cfg: ModelConfig, *, scale: float, layout: str | None = None,
          said: Mapping | None = None) -> int:
  """How many tensors were written to `file`, whole or not at all; `said` goes into its metadata."""
  table = names.table(cfg, layout)
  leaves = {path: np.asarray(leaf, np.float32) for path, leaf in flatten_dict(adapter, sep="/").items()}
  made = {}
  for name, pieces in tables.pieces_of(table).items():
    own = [(row, layer) for row, layer in pieces if row.ours.endswith("/kernel") and _beside(row, "down") in leaves]
    if own:
      a, b = _together(own, leaves, cfg, tables.their_shapes(table)[name], table)
      module = PREFIX + name.removesuffix(".weight")
      made[f"{module}.lora_A.weight"], made[f"{module}.lora_B.weight"] = a, b * np.float32(scale)
  path = pathlib.Path(file)
  if path.suffix != ".safetensors":
    raise ValueError(f"{file} should end in .safetensors, as adapters are looked for.")
  path.parent.mkdir(parents=True, exist_ok=True)
  save.write_file(path, made, {METADATA: json.dumps(dict(said or {}), sort_keys=True)})
  return len(made)


def read_adapter(file: str | os.PathLike, cfg: ModelConfig) -> Adapter:
  """The `Adapter` in `file`, or in the one file of a folder, for a network of `cfg`, in whichever layout it names the layers.

  Layers that it leaves out get zeros, and smaller ranks are filled up with them.  ValueError for an adapter of another network.
  """
  tensors, metadata = read.index(file), read.metadata(file)
  modules, scales = _modules(file, tensors), _scales(tensors, metadata)
  table = min((names.table(cfg, layout) for layout in names.layouts(cfg)),
              key=lambda table: len({f"{module}.weight" for module in modules} - set(tables.their_shapes(table))))
  shapes, pieces = tables.their_shapes(table), tables.pieces_of(table)
  faults, parts = [], {}
  for module, (a, b) in sorted(modules.items()):
    name = module + ".weight"
    if name not in shapes or not all(row.ours.endswith("/kernel") for row, _ in pieces[name]):
      faults.append(f"{module} is no linear layer of this network")
    elif (len(shapes[name]), a.shape[1:], b.shape[:1]) != (2, shapes[name][1:], shapes[name][:1]) or a.shape[0] != b.shape[1]:
      faults.append(f"{module} is {a.shape} and {b.shape}, expected (r, {shapes[name][1]}) and ({shapes[name][0]}, r)")
    else:
      down, up = (np.asarray(read.copy_block(x, tuple(slice(None) for _ in x.shape)), np.float32) for x in (a, b))
      for row, layer in pieces[name]:
        if row not in table.copies:  # what stands there once more is read once
          parts.setdefault(row.ours, (row, {}))[1][layer] = _ours(row, down, up * np.float32(scales(module, a.shape[0])), table)
  if faults:
    raise ValueError(f"{file} is an adapter of another network, {len(faults)} of its {len(modules)} layers do not fit: "
                     f"{tables.some(faults)}.")
  tree = {}
  for row, layers in parts.values():
    down, up = _stacked(row, layers)
    used = down.any(axis=tuple(range(down.ndim - 1)))
    if used.any():  # ranks without inputs are those of another part of their layer
      tree[_beside(row, "down")] = down[..., used]
      tree[_beside(row, "up")] = up.compress(used, axis=0 if row.layers is None else 1)
  return Adapter(unflatten_dict(tree, sep="/"), outside.parsed(metadata.get(METADATA, "{}")))


def _beside(row: Row, side: str) -> str:
  return f"{row.ours.rpartition('/')[0]}/{lora.NAME}/{side}"


def _patterns(row: Row) -> tuple[str, str, str, str]:
  """(their outputs, their inputs, our inputs, our outputs) of a linear layer's einops pattern, "(N h) i -> i N h"."""
  theirs, ours = row.how.split(" -> ")
  outputs, inputs = re.findall(r"\([^)]*\)|\S+", theirs)
  letters = lambda side: side.strip("()")
  assert ours == f"{letters(inputs)} {letters(outputs)}", row
  return outputs, inputs, letters(inputs), letters(outputs)


def _ours(row: Row, a: np.ndarray, b: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
  """(down (*in, r), up (r, *out)) of one layer, from their A (r, in) and B (out, r)."""
  outputs, inputs, our_inputs, our_outputs = _patterns(row)
  return (tables.rearranged(a[:, row.part], f"r {inputs} -> {our_inputs} r", table.sizes),
          tables.rearranged(b, f"{outputs} r -> r {our_outputs}", table.sizes))


def _together(own, leaves, cfg, shape, table) -> tuple[np.ndarray, np.ndarray]:
  """Their (A (R, in), B (out, R)), where the ranks of several parts of ours stand one after another, each with its own inputs."""
  rank = lambda row: leaves[_beside(row, "down")].shape[-1]
  a, b, at = np.zeros((sum(rank(row) for row, _ in own), shape[1]), np.float32), [], 0
  for row, layer in own:
    outputs, inputs, our_inputs, our_outputs = _patterns(row)
    down, up = (leaves[_beside(row, side)] for side in ("down", "up"))
    down, up = (down, up) if layer is None else (down[layer], up[layer])
    a[at:at + rank(row), row.part] = rearrange(down, f"{our_inputs} r -> r {inputs}")
    b.append(rearrange(up, f"r {our_outputs} -> {outputs} r"))
    at += rank(row)
  return a, np.concatenate(b, axis=1)


def _stacked(row: Row, layers: Mapping) -> tuple[np.ndarray, np.ndarray]:
  """(down, up) of all layers of a row: zeros for those that are missing, and for the ranks that one has fewer."""
  if row.layers is None:
    return layers[None]
  some_down, some_up = next(iter(layers.values()))
  rank = max(down.shape[-1] for down, _ in layers.values())
  down = np.zeros((row.layers, *some_down.shape[:-1], rank), np.float32)
  up = np.zeros((row.layers, rank, *some_up.shape[1:]), np.float32)
  for layer, (one_down, one_up) in layers.items():
    down[layer, ..., :one_down.shape[-1]], up[layer, :len(one_up)] = one_down, one_up
  return down, up


def _modules(file, tensors) -> dict[str, tuple[read.Tensor, read.Tensor]]:
  """Their module -> (A, B)."""
  pattern = re.compile(r"^(?:transformer\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight$")
  found, odd = {}, []
  for name, tensor in tensors.items():
    hit = pattern.match(name)
    if hit:
      found.setdefault(hit[1], {})[hit[2]] = tensor
    elif not name.endswith(".alpha"):
      odd.append(name)
  halves = sorted(module for module, sides in found.items() if len(sides) < 2)
  if odd or halves or not found:
    why = f"there are {tables.some(sorted(odd))}" if odd else f"{tables.some(halves) or 'none'} without the other half"
    raise ValueError(f"{file} is no LoRA adapter of a transformer: expected pairs MODULE.lora_A.weight, MODULE.lora_B.weight; "
                     f"{why}.")
  return {module: (sides["A"], sides["B"]) for module, sides in found.items()}


def _scales(tensors, metadata):
  """(module, rank) -> alpha / rank, from PEFT's metadata or from tensors MODULE.alpha; 1 where neither is there."""
  said = {key.removeprefix(PREFIX): value for key, value in outside.parsed(metadata.get(THEIRS, "{}")).items()}
  # PEFT takes patterns for regular expressions; those of a file are names, or the ends of names, and are read as such.
  fits = lambda pattern, module: f".{module}".endswith("." + pattern.removeprefix("^"))
  by_module = lambda patterns, module: next((value for pattern, value in patterns.items() if fits(pattern, module)), None)
  alphas = {name.removeprefix(PREFIX).removesuffix(".alpha"): float(read.copy_block(tensor, ()))
            for name, tensor in tensors.items() if name.endswith(".alpha")}

  def scale(module, rank):
    alpha = alphas.get(module, by_module(said.get("alpha_pattern", {}), module) or said.get("lora_alpha", rank))
    return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)

  return scale
