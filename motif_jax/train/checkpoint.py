"""Checkpoints: saved asynchronously, whole or not at all, kept by a policy, restored onto any mesh.

A step's folder holds `ema` (all that sampling needs), `rest` (what only training needs), `config` as JSON, so that a checkpoint
says by itself what it is, and `about` as JSON: versions of libraries, figures of evaluation, and what the loop wants back.  Its
`manifest.json` has size and digest of every file (`manifest`), and `retention` says which steps stay.  A checkpoint of weights
alone, which come from elsewhere, has no `rest`: a run in its work directory starts from them, with a new optimizer.
"""

from collections.abc import Mapping
import dataclasses
import importlib.metadata
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from motif_jax import config as configs, outside, sharding
from motif_jax.config import Config, TrainConfig
from motif_jax.model import lora
from motif_jax.train import damage, manifest, retention, stored
from motif_jax.train.saved_config import config_from_json, differences
from motif_jax.train.state import TrainState, init_trained, network
from motif_jax.weights import folder as released

FOLDER = "checkpoints"  # inside the work directory
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
WRITTEN_AT_ONCE = 1  # GB, of weights alone; without a limit orbax copied half of 4 GB


def make_manager(workdir: str, cfg: TrainConfig) -> ocp.CheckpointManager:
  """The manager of the checkpoints of a run, which deletes those that `cfg` does not keep.  Use it in a `with`, or close it."""
  folder = pathlib.Path(workdir).absolute() / FOLDER
  damage.clear_unfinished(folder)
  options = ocp.CheckpointManagerOptions(
      preservation_policy=_Policy(folder, cfg), enable_async_checkpointing=True,
      async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _write_manifest(folder)))
  return ocp.CheckpointManager(folder, options=options)


def check_architecture(workdir: str, cfg: Config) -> None:
  """Raises ValueError if `workdir` holds a checkpoint that `cfg` cannot go on from, naming every field that differs."""
  folder = pathlib.Path(workdir).absolute() / FOLDER
  for step in sorted(_finished(folder), reverse=True):
    if not manifest.faults(folder / str(step)):
      _check_same(folder / str(step), cfg)
      return


def save(manager: ocp.CheckpointManager, state: TrainState, cfg: Config, *, figures: retention.Figures | None = None,
         beside: Mapping[str, Any] | None = None) -> bool:
  """Whether there was anything to save: starts saving `state` under its step, unless there is one.

  Returns when the arrays are copied, so that the state may be donated.

  Args:
    figures: what evaluation said of this very step; the best by one of them stay longer (`retention`).
    beside: whatever else a run wants back (`about`), as JSON has it.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return False
  about = {"libraries": {name: importlib.metadata.version(name) for name in LIBRARIES}, "processes": jax.process_count(),
           "devices": jax.device_count(), "figures": dict(figures or {}), "beside": dict(beside or {})}
  manager.save(step, metrics=about["figures"], args=ocp.args.Composite(
      ema=ocp.args.StandardSave(state.ema),
      rest=ocp.args.StandardSave(_rest(state)),
      config=ocp.args.JsonSave(configs.to_dict(cfg)),
      about=ocp.args.JsonSave(about),
  ))
  return True


def check(manager: ocp.CheckpointManager) -> None:
  """Raises what a save met that runs beside, on the first process once it has come to its end; waits for none."""
  if jax.process_index():
    manager.check_for_errors()
  elif not manager.is_saving_in_progress():  # the first one deletes older steps, in a thread from which the call above takes the
    manager.wait_until_finished()  # error away: that thread would delete them as if all were well


def beside(manager: ocp.CheckpointManager, step: int) -> dict:
  """What a run gave `save` to keep beside the state of `step`; empty where nothing is saved."""
  return stored.about(pathlib.Path(manager.directory) / str(step))["beside"]


def restore(manager: ocp.CheckpointManager, abstract: TrainState, cfg: Config, mesh: Mesh) -> TrainState | None:
  """The newest saved state, sharded over `mesh` whatever mesh saved it; None where none is saved yet, or weights alone.

  A damaged step is named in a printed line, moved to the folder `damaged`, and the next older one takes its place.  ValueError
  where none is whole.
  """
  steps, found = sorted(manager.all_steps(), reverse=True), []
  for step in steps:
    folder = pathlib.Path(manager.directory) / str(step)
    wrong = damage.agreed(manifest.faults(folder, full=cfg.train.verify, part=(jax.process_index(), jax.process_count())))
    state = None
    if not wrong:
      _check_same(folder, cfg)
      state, wrong = _tried(manager, step, abstract, mesh) if stored.has_rest(folder) else (None, [])
    if not wrong:
      damage.set_aside(manager, found)
      return state
    found.append(step)
    damage.say(folder, wrong)
  if steps:
    raise ValueError(f"none of the checkpoints of steps {steps} in {manager.directory} is whole; python -m launch.checkpoint "
                     "verify says more.  To start anew use another work directory.")
  return None


def save_weights(workdir: str, params: dict, cfg: Config) -> pathlib.Path:
  """The folder of a new checkpoint of weights alone, at step 0, in their dtypes; no more memory than they have, and a little."""
  folder = pathlib.Path(workdir).absolute() / FOLDER
  if folder.is_dir() and any(folder.iterdir()):
    raise ValueError(f"There are checkpoints in {folder} already; name another work directory.")
  handlers = {"ema": ocp.StandardCheckpointHandler(save_concurrent_gb=WRITTEN_AT_ONCE), "config": ocp.JsonCheckpointHandler()}
  options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
  with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
    manager.save(0, args=ocp.args.Composite(
        ema=ocp.args.StandardSave(params), config=ocp.args.JsonSave(configs.to_dict(cfg))))
  manifest.write(folder / "0")
  return folder / "0"


def restore_start(manager: ocp.CheckpointManager, cfg: Config, mesh: Mesh) -> dict | None:
  """The weights that a run starts from, float32 and sharded over `mesh`, where the newest checkpoint is of weights alone."""
  step = manager.latest_step()
  if step is None or stored.has_rest(folder := pathlib.Path(manager.directory) / str(step)):
    return None
  _check_same(folder, cfg)
  return manager.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(_abstract_parameters(cfg, mesh))))["ema"]


def restore_weights(path: str, *, raw: bool = False) -> tuple[Config, dict]:
  """The config and the parameters of the checkpoint that `path` names, in their dtypes, on the first device.

  The moving average, or with `raw` what the optimizer itself moves; nothing else of the state is read.  An adapter is merged
  into the network that it was trained on.
  """
  folder, step = find(path)
  folder = folder / str(step)
  cfg = config_from_json(folder / "config" / "metadata")
  if raw and not stored.has_rest(folder):
    raise ValueError(f"{folder} holds weights alone, so raw and averaged ones are the same; leave --raw out.")
  prefix, saved = "params/model/" if raw else "ema/", stored.leaves(folder)
  target = flatten_dict(_abstract_parameters(cfg, None), sep="/")
  wanted = {prefix + name: jax.ShapeDtypeStruct(leaf.shape, saved[prefix + name].dtype, sharding=leaf.sharding)
            for name, leaf in target.items()}
  params = unflatten_dict({name.removeprefix(prefix): leaf for name, leaf in stored.read(folder, wanted).items()}, sep="/")
  if not cfg.adapter.rank:
    return cfg, params
  merged = lora.merge(restore_base(cfg, None, frozen=False), params, cfg.model, scale=cfg.adapter.alpha / cfg.adapter.rank)
  return dataclasses.replace(cfg, adapter=dataclasses.replace(cfg.adapter, rank=0)), merged


def restore_for_sampling(path: str, mesh: Mesh | None = None) -> tuple[Config, dict]:
  """The config and the EMA parameters of the checkpoint that `path` names, see `find`.

  The parameters are sharded over `mesh`, or lie on the first device.  Those of an adapter come with the network that it was
  trained on.
  """
  folder, step = find(path)
  cfg = config_from_json(folder / str(step) / "config" / "metadata")
  with _reader(folder) as manager:
    target = _abstract_parameters(cfg, mesh)
    trained = manager.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(target)))["ema"]
  return cfg, network(cfg, trained, restore_base(cfg, mesh) if cfg.adapter.rank else None)


def restore_base(cfg: Config, mesh: Mesh | None, *, frozen: bool = True) -> dict:
  """The network that the adapter of `cfg` belongs to, from a checkpoint of ours or a folder of released weights.

  `frozen`: kernels in the compute dtype, in which they are used anyway.  ValueError if it is not what the adapter was begun on.
  """
  path, alone = pathlib.Path(cfg.adapter.base), dataclasses.replace(cfg, adapter=dataclasses.replace(cfg.adapter, rank=0))
  target = _abstract_parameters(alone, mesh)
  if released.is_one(path):
    params = released.read_params(released.find(path), shardings=jax.tree.map(lambda x: x.sharding, target))
  else:
    _, params = restore_for_sampling(path, mesh)
  shapes = lambda tree: {name: leaf.shape for name, leaf in sharding.paths_of(tree)}
  if shapes(params) != shapes(target) or cfg.adapter.digest not in ("", lora.digest(params)):
    raise ValueError(f"the weights in {path} are not those that the adapter was trained on; put those back, or begin anew in "
                     "another work directory.")
  return lora.frozen(params, cfg.model.dtype) if frozen else params


def folders(path: str) -> dict[int, pathlib.Path]:
  """Step -> folder of every finished checkpoint, by step, in a work directory or a folder of checkpoints."""
  folder = pathlib.Path(path).absolute()
  folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
  if not folder.is_dir():
    raise ValueError(f"{path} is not a folder; expected the work directory of a training run.")
  steps = _finished(folder)
  if not steps:
    raise ValueError(f"There is no finished checkpoint in {folder}; is it the work directory of a training run?")
  return {step: folder / str(step) for step in sorted(steps)}


def find(path: str) -> tuple[pathlib.Path, int]:
  """The folder of checkpoints and the step that `path` names: one step's folder, or, for the newest whole step, the folder of
  checkpoints or the work directory."""
  folder, step = pathlib.Path(path).absolute(), None
  if folder.name.isdigit() and (folder / "ema").is_dir():
    folder, step = folder.parent, int(folder.name)
  elif (folder / FOLDER).is_dir():
    folder = folder / FOLDER
  steps = list(folders(folder))
  if step is not None and step not in steps:
    raise ValueError(f"There is no finished checkpoint of step {step} in {folder}; there are {sorted(steps)}.")
  for candidate in sorted(steps, reverse=True) if step is None else [step]:
    wrong = manifest.faults(folder / str(candidate))
    if not wrong:
      return folder, candidate
    damage.say(folder / str(candidate), wrong)
  raise ValueError(f"There is no whole checkpoint to read in {path}; python -m launch.checkpoint verify says more.")


class _Policy:
  """What orbax asks which checkpoints stay."""

  def __init__(self, folder: pathlib.Path, cfg: TrainConfig):
    self._folder, self._cfg = folder, cfg

  def should_preserve(self, checkpoints, *, context):
    figures = lambda info: info.metrics or stored.about(self._folder / str(info.step))["figures"]
    stay = retention.reasons({info.step: figures(info) for info in checkpoints}, self._cfg)
    return [bool(stay[info.step]) for info in checkpoints]


def _write_manifest(folder):
  """Called by orbax on the first process, in the thread of the save: all is written, and the folder still has another name."""
  (unfinished,) = folder.glob(damage.UNFINISHED)
  manifest.write(unfinished)


def _finished(folder) -> list[int]:
  if not folder.is_dir():
    return []
  with _reader(folder) as manager:
    return list(manager.all_steps())


def _reader(folder):
  """A manager that only reads, without orbax's three warnings that it will."""
  orbax = logging.getLogger("absl")
  level = orbax.level
  orbax.setLevel(logging.ERROR)
  try:
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True))
  finally:
    orbax.setLevel(level)


def _tried(manager, step, abstract, mesh):
  """(the state of a step, nothing wrong), or (None, what went wrong on one of the processes)."""
  shardings = sharding.state_shardings(abstract, mesh)
  target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
  state, wrong = None, []
  try:
    items = manager.restore(step, args=ocp.args.Composite(
        ema=ocp.args.StandardRestore(target.ema),
        rest=ocp.args.StandardRestore(_rest(target)),
    ))
    state = TrainState(ema=items["ema"], **items["rest"])
  except Exception as e:  # whatever orbax and its storage make of bytes that are not what they were
    wrong = [f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:300]]
  return state, damage.agreed(wrong)


def _rest(state):
  """What only training needs, by name of field."""
  return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "ema"}


def _abstract_parameters(cfg, mesh):
  """Shapes of the parameters that are trained, placed on `mesh` or on the first device."""
  abstract = jax.eval_shape(lambda key: init_trained(key, cfg), jax.random.key(0))
  if mesh is None:
    places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), abstract)
  else:
    places = sharding.parameter_shardings(abstract, mesh)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, places)


def _check_same(folder, cfg):
  """Raises ValueError with every field of the architecture in which the checkpoint differs from `cfg`."""
  saved = outside.read_json(folder / "config" / "metadata")
  if lines := differences(saved, cfg, weights_alone=not stored.has_rest(folder)):
    listed = "\n".join(lines)
    raise ValueError(f"{folder.parent}, step {folder.name}, is of another architecture than the config:\n{listed}\n"
                     "Change the config, or use another work directory.")
