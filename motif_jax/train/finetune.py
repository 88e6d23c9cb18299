"""Fine-tuning as a training run: a config made from that of the network it starts from, and the adapter as a file at the end.

There is no second loop: `launch.finetune` gives what is made here to `train/loop.py`.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh

from motif_jax import config, encoding, sharding
from motif_jax.config import BucketConfig, Config
from motif_jax.data import dataset as datasets, encode, pipeline, survey
from motif_jax.data.progress import Clock
from motif_jax.model import lora
from motif_jax.train import checkpoint, damage
from motif_jax.train.state import init_trained
from motif_jax.weights import folder as folders, lora as files, release

FILE = "adapter.safetensors"  # in the work directory


def base_config(path: str, cfg: Config) -> Config:
  """The config of the network in `path`: a checkpoint of ours, or a folder of released weights, whose gaps `cfg` fills."""
  place = pathlib.Path(path)
  if (place / folders.INDEX).is_file():
    return release.config_of(path, cfg)[0]
  if folders.is_one(place):
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **folders.find(path).fields))
    return config.from_config_dict(config.to_dict(cfg))
  runs, step = checkpoint.find(path)
  found = checkpoint.config_from_json(runs / str(step) / "config" / "metadata")
  if found.adapter.rank:
    raise ValueError(f"{path} is itself an adapter, of {found.adapter.base}; merge the two first: python -m launch.convert.")
  return found


def with_digest(cfg: Config, mesh: Mesh) -> Config:
  """`cfg` with the digest of the network that its adapter will belong to; ValueError for an adapter that it cannot have."""
  jax.eval_shape(lambda key: init_trained(key, cfg), jax.random.key(0))
  params = checkpoint.restore_base(cfg, mesh, frozen=False)
  return dataclasses.replace(cfg, adapter=dataclasses.replace(cfg.adapter, digest=lora.digest(params)))


def encode_clips(clips: str, output: str, cfg: Config, buckets: tuple[BucketConfig, ...]) -> str:
  """What was encoded, as a table, after making a data set in `output`; one that is there and matches is kept."""
  setting = encoding.Setting(cfg, clips, output, batch_size=16, batch_pixels=128e6, decoders=0, limit=300.0)
  write = functools.partial(encoding.write, setting, clock=Clock())
  return encode.encode(clips, survey.survey(clips, buckets), output, setting.encoders(), write).table()


def check_count(cfg: Config) -> None:
  """Raises ValueError where the data set has too few clips for a batch and something held out."""
  path = cfg.data.path or cfg.data.mixture[0][0]
  training, held_out = pipeline.split_indices(datasets.open_dataset(path, cfg.data.source), cfg.data.validation)
  have, held = sum(map(len, training)), sum(map(len, held_out))
  if have < cfg.data.batch_size or (cfg.data.validation and not held):
    raise ValueError(f"{path} has {have + held} clips, of which data.validation {cfg.data.validation:g} holds out "
                     f"{held}; expected at least {cfg.data.batch_size} (data.batch_size) to train on and 1 held out; 20 to 50 "
                     "clips make a good adapter.  Add clips, or set data.validation=0.0 or a smaller batch.")


def write_adapter(workdir: str, cfg: Config, average: dict) -> pathlib.Path:
  """The file of the averaged adapter of a run, in the work directory, as diffusers reads it."""
  scale = cfg.adapter.alpha / cfg.adapter.rank
  base = pathlib.Path(cfg.adapter.base)
  layout = folders.find(base).layout.name if folders.is_one(base) else None
  path = pathlib.Path(workdir) / FILE
  said = dict(dataclasses.asdict(cfg.adapter), targets=list(cfg.adapter.targets))
  files.write(path, jax.tree.map(np.asarray, average), cfg.model, scale=scale, layout=layout, said=said)
  return path


def applied(params: dict, cfg: Config, file: str, *, weight: float, any_base: bool = False) -> dict:
  """The network `params` with the adapter of a file beside its kernels; ValueError where it was trained on another one."""
  if any(name.endswith("/up") and f"/{lora.NAME}/" in name for name, _ in sharding.paths_of(params)):
    raise ValueError("the checkpoint has an adapter already; merge the two first: python -m launch.convert.")
  read = files.read_adapter(file, cfg.model)
  known = read.said.get("digest")
  if known and not any_base and known != lora.digest(params):
    raise ValueError(f"{file} was trained on other weights, those of {read.said.get('base') or 'another network'}; pass them, or "
                     "--any_base to use it all the same.")
  return lora.attach(params, read.tree, scale=weight)


def start(workdir: str, source: str, cfg: Config) -> None:
  """Puts the weights of `source` into a new work directory, from which training of the whole network starts."""
  folder = pathlib.Path(workdir).absolute() / checkpoint.FOLDER
  if any(path.name.isdigit() for path in folder.glob("*")):
    return  # it has begun
  damage.clear_unfinished(folder)  # a start that was killed while it wrote them
  if folders.is_one(pathlib.Path(source)):
    params = folders.read_params(folders.find(source))
  else:
    _, params = checkpoint.restore_weights(source)
  checkpoint.save_weights(workdir, params, cfg)
