"""What stands in a finished checkpoint, read without a run: what it says of itself, and any of its arrays by path."""

from collections.abc import Mapping
import pathlib

import jax
import orbax.checkpoint as ocp

from motif_jax import outside, sharding


def about(folder: pathlib.Path) -> dict:
  """What the checkpoint in a step's folder says of itself; empty sections where it is older than that."""
  try:
    said = outside.read_json(folder / "about" / "metadata")
  except (OSError, ValueError):
    said = {}
  return {name: said.get(name, {}) for name in ("libraries", "figures", "beside")} | said


def has_rest(folder: pathlib.Path) -> bool:
  """Whether a step's folder holds a whole train state, and not weights alone."""
  return (folder / "rest").is_dir()


def leaves(folder: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
  """Path -> shape and dtype of every array in a step's folder: "ema/...", "params/model/...", "opt_state/...", "step"."""
  found = {f"ema/{name}": leaf for name, leaf in sharding.paths_of(_metadata(folder / "ema"))}
  if has_rest(folder):
    found |= dict(sharding.paths_of(_metadata(folder / "rest")))
  return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in found.items()}


def read(folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Those arrays of `leaves` that are `wanted`, with its dtypes and shardings; nothing else is read."""
  found = {}
  for item in ("ema", "rest"):
    prefix = "ema/" if item == "ema" else ""
    mine = {name.removeprefix(prefix): leaf for name, leaf in wanted.items() if name.startswith("ema/") == (item == "ema")}
    if mine:
      tree = _metadata(folder / item)
      named = [mine.get(name, ocp.PLACEHOLDER) for name, _ in sharding.paths_of(tree)]
      target = jax.tree.unflatten(jax.tree.structure(tree), named)
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        restored = reader.restore(folder / item, args=ocp.args.PyTreeRestore(
            item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)))
      found |= {prefix + name: leaf for name, leaf in sharding.paths_of(restored) if name in mine}
  return found


def _metadata(item):
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    found = reader.metadata(item).item_metadata
  if found is None:  # orbax found no file that says what there is, or not all of it
    raise ValueError(f"the checkpoint in {item.parent} is damaged: {item.name} does not say what it holds; python -m "
                     "launch.checkpoint verify tells which files of a run are whole, and an older step may be.")
  return found.tree
