"""The flags that name a model, trained or released, and the devices that it lies on; shared by commands that sample."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax

from configs import motif_2b
from motif_jax import config, mesh as meshes, pipeline
from motif_jax.config import Config, MeshConfig
from motif_jax.encoders import registry
from motif_jax.evaluate.subject import Subject
from motif_jax.pipeline import Pipeline
from motif_jax.train import checkpoint, finetune


class Model(NamedTuple):
  """What --checkpoint or --weights names."""

  cfg: Config
  params: dict
  source: dict  # the flags that name it
  mesh: jax.sharding.Mesh


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that name a model, trained or released, and the devices that it lies on."""
  add = parser.add_argument
  add("--checkpoint", help="work directory of a training run, or the folder of one of its checkpoints")
  add("--weights", help="folder of a released pipeline: model_index.json, transformer/, vae/, text_encoder/")
  add("--adapter", help="a LoRA adapter for it: a safetensors file of launch.finetune, or of diffusers")
  add("--adapter_weight", type=float, default=1.0, help="how much the adapter counts; 0 is the network without it")
  add("--any_base", action="store_true", help="use the adapter although it was trained on other weights")
  add("--mesh", default="-1x1x1", help="DATAxFSDPxSEQUENCE; -1: all devices.  Rows of a batch over data and fsdp, weights over "
      "fsdp and sequence, tokens over sequence")


def read(args: argparse.Namespace) -> Model:
  """The `Model` that those flags name, its weights in their places on the mesh; ValueError for what cannot be."""
  pipe, source = find(args)
  return Model(pipe.cfg, pipe.read_params(), source, pipe.mesh)


def subject_of(pipe: Pipeline, prompts: Sequence[str], *, seed: int, batch: int, also: Sequence[str] = ()) -> Subject:
  """What a study of sampling is made on, of these prompts; `also`: others that it will be asked for.

  The prompts are encoded before network and codec are read, and their encoder, the largest of the three, is let go of.
  """
  every = list(dict.fromkeys([*prompts, *also]))
  texts = dict(zip([*every, ""], pipe.texts(every), strict=True))
  codec, = registry.named(pipe.cfg.encoders, ("codec",), mesh=pipe.mesh)
  return Subject(pipe.read_params(), pipe.cfg, codec, texts, prompts, jax.random.key(seed), batch)


def find(args: argparse.Namespace) -> tuple[Pipeline, dict]:
  """(What those flags name, its weights not read yet; the flags that name it)."""
  if (args.checkpoint is None) == (args.weights is None):
    raise ValueError("Pass either --checkpoint=WORKDIR, of a training run, or --weights=FOLDER, of a released pipeline.")
  mesh = mesh_of(args.mesh)
  if args.checkpoint:
    runs, step = checkpoint.find(args.checkpoint)
    return _adapted(pipeline.of_checkpoint(runs, step, mesh), dict(checkpoint=str(runs / str(step))), args)
  # What the folder does not say, the release's config does.
  pipe = pipeline.of_release(args.weights, config.from_config_dict(motif_2b.get_config()), mesh)
  return _adapted(pipe, dict(weights=str(pathlib.Path(args.weights).absolute())), args)


def _adapted(pipe, source, args):
  """The same with the adapter that the flags name, if any."""
  if args.adapter is None:
    return pipe, source
  read = lambda: finetune.applied(pipe.read_params(), pipe.cfg, args.adapter, weight=args.adapter_weight, any_base=args.any_base)
  said = dict(adapter=str(pathlib.Path(args.adapter).absolute()), adapter_weight=args.adapter_weight)
  return dataclasses.replace(pipe, read_params=read), source | said


def mesh_of(text: str) -> jax.sharding.Mesh:
  """The mesh that --mesh names, over the first devices where it does not take all."""
  try:
    sizes = tuple(int(size) for size in text.split("x"))
    data, fsdp, sequence = sizes
  except ValueError as e:
    raise ValueError(f"--mesh={text} is not DATAxFSDPxSEQUENCE, three whole numbers such as 1x1x8; -1 takes all devices.") from e
  count = None if -1 in sizes else data * fsdp * sequence
  return meshes.make_mesh(MeshConfig(data, fsdp, sequence), devices=jax.devices()[:count])
