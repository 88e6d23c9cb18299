"""Checkpoints: saved asynchronously, whole or not at all, restored onto any mesh.

A step's folder holds three items: `ema` (all that sampling needs), `rest` (what only training needs) and `config` as JSON, so
that a checkpoint says by itself what it is.  One of weights alone, which come from elsewhere, has no `rest`: a run in its work
directory starts from them, with a new optimizer.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from motif_jax import config as configs, sharding
from motif_jax.config import Config
from motif_jax.model import transformer
from motif_jax.train.state import TrainState

FOLDER = "checkpoints"  # inside the work directory

# Fields of the model's config that change how it runs and not what it is.
RUN_TIME = ("dtype", "remat", "unroll", "attention")
# Keys that came later than some checkpoints, by section, with what was true before there was a choice.
CAME_LATER = {"encoders": dict(image="none", weights=dict(codec="", text="", teacher="", image=""), teacher_grid="teacher",
                               log_variance=False),
              "data": dict(batch_tokens=0, pattern=(), weights=(), sample_latents=False)}
CLASSIFIER_FREE = dict(rule="classifier_free", rescale=0.0, momentum=0.0, threshold=0.0, eta=1.0, interval=(0.0, 1.0),
                       together=True)

WRITTEN_AT_ONCE = 1  # GB, of weights alone; without a limit orbax copied half of 4 GB


def make_manager(workdir: str, *, keep: int) -> ocp.CheckpointManager:
  """The manager of the checkpoints of a run, the newest `keep` of which stay.  Use it in a `with`, or close it."""
  folder = pathlib.Path(workdir).absolute() / FOLDER
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True)
  return ocp.CheckpointManager(folder, options=options)


def check_architecture(workdir: str, cfg: Config) -> None:
  """Raises ValueError if `workdir` holds a checkpoint that `cfg` cannot go on from, naming every field that differs."""
  if (pathlib.Path(workdir) / FOLDER).is_dir():
    with _reader(pathlib.Path(workdir).absolute() / FOLDER) as manager:
      if manager.latest_step() is not None:
        _check_same(manager, manager.latest_step(), cfg)


def save(manager: ocp.CheckpointManager, state: TrainState, cfg: Config) -> None:
  """Starts saving `state` under its step; returns when the arrays are copied, so that the state may be donated."""
  step = int(state.step)
  if step in manager.all_steps():
    return
  manager.save(step, args=ocp.args.Composite(
      ema=ocp.args.StandardSave(state.ema),
      rest=ocp.args.StandardSave(_rest(state)),
      config=ocp.args.JsonSave(configs.to_dict(cfg)),
  ))


def restore(manager: ocp.CheckpointManager, abstract: TrainState, cfg: Config, mesh: Mesh) -> TrainState | None:
  """The newest saved state, sharded over `mesh` whatever mesh saved it; None where none is saved yet, or weights alone."""
  step = manager.latest_step()  # an older step may be half deleted after a crash
  if step is None or not _has_rest(manager, step):
    return None
  _check_same(manager, step, cfg)
  shardings = sharding.state_shardings(abstract, mesh)
  target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
  items = manager.restore(step, args=ocp.args.Composite(
      ema=ocp.args.StandardRestore(target.ema),
      rest=ocp.args.StandardRestore(_rest(target)),
  ))
  return TrainState(ema=items["ema"], **items["rest"])


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
  return folder / "0"


def restore_start(manager: ocp.CheckpointManager, cfg: Config, mesh: Mesh) -> dict | None:
  """The weights that a run starts from, float32 and sharded over `mesh`, where the newest checkpoint is of weights alone."""
  step = manager.latest_step()
  if step is None or _has_rest(manager, step):
    return None
  _check_same(manager, step, cfg)
  return manager.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(_abstract_parameters(cfg, mesh))))["ema"]


def restore_weights(path: str, *, raw: bool = False) -> tuple[Config, dict]:
  """The config and the parameters of the checkpoint that `path` names, in their dtypes, on the first device.

  The moving average, or with `raw` what the optimizer itself moves; nothing else of the state is read.
  """
  folder, step = find(path)
  with _reader(folder) as manager:
    cfg = config_from_json(_saved_config(manager, step))
    if raw and not _has_rest(manager, step):
      raise ValueError(f"{folder / str(step)} holds weights alone, so raw and averaged ones are the same; leave --raw out.")
  item, within = ("rest", ("params", "model")) if raw else ("ema", ())
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    found = reader.metadata(folder / str(step) / item).item_metadata.tree
    dtypes = {path: leaf.dtype for path, leaf in flatten_dict(functools.reduce(dict.__getitem__, within, found)).items()}
    target = {path: jax.ShapeDtypeStruct(leaf.shape, dtypes[path], sharding=leaf.sharding)
              for path, leaf in flatten_dict(_abstract_parameters(cfg, None)).items()}
    tree = functools.reduce(lambda inner, name: {name: inner}, reversed(within), unflatten_dict(target))
    restored = reader.restore(folder / str(step) / item, args=ocp.args.PyTreeRestore(
        item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=True))
  return cfg, functools.reduce(dict.__getitem__, within, restored)


def restore_for_sampling(path: str, mesh: Mesh | None = None) -> tuple[Config, dict]:
  """The config and the EMA parameters of the checkpoint that `path` names, see `find`.

  The parameters are sharded over `mesh`, or lie on the first device.
  """
  folder, step = find(path)
  with _reader(folder) as manager:
    cfg = config_from_json(_saved_config(manager, step))
    target = _abstract_parameters(cfg, mesh)
    return cfg, manager.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(target)))["ema"]


def find(path: str) -> tuple[pathlib.Path, int]:
  """The folder of checkpoints and the step that `path` names: one step's folder, or, for the newest step, the folder of
  checkpoints or the work directory."""
  folder, step = pathlib.Path(path).absolute(), None
  if folder.name.isdigit() and (folder / "ema").is_dir():
    folder, step = folder.parent, int(folder.name)
  elif (folder / FOLDER).is_dir():
    folder = folder / FOLDER
  if not folder.is_dir():
    raise ValueError(f"{path} is not a folder; expected the work directory of a training run.")
  with _reader(folder) as manager:
    steps = manager.all_steps()
  if not steps:
    raise ValueError(f"There is no finished checkpoint in {folder}; is it the work directory of a training run?")
  if step is not None and step not in steps:
    raise ValueError(f"There is no finished checkpoint of step {step} in {folder}; there are {sorted(steps)}.")
  return folder, max(steps) if step is None else step


def _reader(folder):
  return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True))


def config_from_json(saved: dict | str | pathlib.Path) -> Config:
  """The `Config` of a JSON file, or of the mapping read from one; either may be older than the newest keys."""
  if not isinstance(saved, dict):
    saved = json.loads(pathlib.Path(saved).read_text())
  saved = {section: CAME_LATER.get(section, {}) | values if isinstance(values, dict) else values
           for section, values in saved.items()}
  if isinstance(scale := saved["sample"]["guidance"], float):  # classifier-free guidance was all there was
    saved["sample"] = saved["sample"] | {"guidance": CLASSIFIER_FREE | {"scale": scale}}
  return configs.from_config_dict(saved)


def _rest(state):
  """What only training needs, by name of field."""
  return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "ema"}


def _has_rest(manager, step):
  return (pathlib.Path(manager.directory) / str(step) / "rest").is_dir()


def _saved_config(manager, step):
  return manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]


def _abstract_parameters(cfg, mesh):
  """Shapes of the model's parameters, placed on `mesh` or on the first device."""
  abstract = jax.eval_shape(lambda key: transformer.init(key, cfg.model), jax.random.key(0))
  if mesh is None:
    places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), abstract)
  else:
    places = sharding.parameter_shardings(abstract, mesh)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, places)


def architecture(saved: dict) -> dict[str, object]:
  """What decides the shapes in a train state, of a config as nested dicts: "model.depths.dual" -> value."""
  aligned = saved["alignment"]["weight"] > 0
  parts = {
      "model": {k: v for k, v in saved["model"].items() if k not in RUN_TIME},
      "alignment": {"on": aligned} | ({k: saved["alignment"][k] for k in ("teacher_dim", "hidden")} if aligned else {}),
      "optimizer": {"kind": saved["optimizer"]["kind"]},
  }
  return flatten_dict(parts, sep=".")


def _check_same(manager, step, cfg):
  """Raises ValueError with every field of the architecture in which the checkpoint differs from `cfg`."""
  ours = architecture(json.loads(json.dumps(configs.to_dict(cfg))))  # through JSON, which turns tuples into lists
  theirs = architecture(_saved_config(manager, step))
  names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
  if not _has_rest(manager, step):
    names = [name for name in names if name.startswith("model.")]
  if names:
    listed = "\n".join(f"  - {name}: {theirs.get(name)} in the checkpoint, {ours.get(name)} in the config" for name in names)
    raise ValueError(f"{manager.directory}, step {step}, is of another architecture than the config:\n{listed}\n"
                     "Change the config, or use another work directory.")
