"""Fine-tunes a network, whole or by a low-rank adapter, from released weights or from a checkpoint of ours:

  python -m launch.finetune --weights=FOLDER --data=DATASET --workdir=DIR [--rank=16]
  python -m launch.finetune --weights=FOLDER --clips=CLIPS --workdir=DIR --prompt="..."      # encodes the clips first

CLIPS is a folder of 20 to 50 videos with captions, as launch.encode takes them.  The adapter is trained and sampled like any
model: DIR holds checkpoints, curves and sample videos, and at the end adapter.safetensors, which launch.sample --adapter and
diffusers' load_lora_adapter read.  Run it again to go on where it was.  --rank=0 trains the whole network.
"""

import argparse
import contextlib
import os
import pathlib
import sys

from ml_collections import ConfigDict

from configs import finetune as recipes, motif_2b
from launch import arguments
from motif_jax import config, config_dict, distributed, endings, mesh as meshes
from motif_jax.data import buckets as buckets_lib
from motif_jax.train import finetune, lock, loop


def parse(argv=None) -> tuple[argparse.Namespace, list[str]]:
  """The flags, and those of the form --config.a.b=value."""
  parser = arguments.parser("launch.finetune", __doc__)
  add = parser.add_argument
  add("--weights", required=True, help="a folder of released weights, of a pipeline or its transformer, or a checkpoint of ours")
  add("--workdir", required=True)
  add("--data", help="a data set of launch.encode, made with the encoders of the network")
  add("--clips", help="a folder of captioned videos, encoded into WORKDIR/dataset first")
  add("--keep", help="a data set like the one that the network was trained on: every other step trains on it, so that what the "
      "clips do not show is not forgotten")
  add("--buckets", help="of --clips: FRAMESxHEIGHTxWIDTH, comma-separated; by default the bucket that the network samples in")
  add("--rank", type=int, default=16, help="of the adapter; 0 trains the whole network")
  add("--alpha", type=float, help="the adapter counts alpha / rank times; by default alpha is the rank")
  add("--targets", help="kernels with an adapter, comma-separated, * for any letters; by default those of attention")
  add("--steps", type=int)
  add("--rate", type=float, help="learning rate")
  add("--batch", type=int, help="clips per step")
  add("--image_to_video", type=float, help="share of samples that start from their first frame; 1.0 trains image-to-video alone")
  add("--prompt", action="append", default=[], help="a sample video of it is shown during training; may be given several times")
  for name, kind in (("coordinator", str), ("processes", int), ("process_id", int)):
    add(f"--{name}", type=kind, help="as of launch.train")
  add("--distributed", action="store_true", help="one of several processes; jax finds the others from the cluster")
  args, others = parser.parse_known_args(argv)
  unknown = [flag for flag in others if not (flag.startswith("--config.") and "=" in flag)]
  if unknown:
    parser.error(f"unknown arguments {' '.join(unknown)}; keys of the config are changed by --config.a.b=value")
  return args, others


def main(argv=None) -> None:
  arguments.quiet()
  args, others = parse(argv)
  arguments.keep_programs()
  with contextlib.ExitStack() as stack:
    try:
      distributed.join(coordinator=args.coordinator, processes=args.processes, process_id=args.process_id,
                       detect=args.distributed)
      stack.enter_context(lock.held(args.workdir))
      job = prepare(args, others)
    except (ValueError, OSError) as e:
      sys.exit(f"error: {e}")
    try:
      state = loop.run(job)
    except endings.Ending as e:
      print(f"error: {e}", file=sys.stderr, flush=True)
      os._exit(e.status)  # the usual way out waits for the other processes
    if job.frozen is not None:
      loop.say(f"adapter: {finetune.write_adapter(args.workdir, job.cfg, state.ema)}")
  if int(state.step) < job.cfg.train.steps:
    sys.exit(endings.INTERRUPTED)


def prepare(args: argparse.Namespace, others: list[str]) -> loop.Job:
  """The run that the flags ask for; ValueError for what cannot be."""
  if (args.data is None) == (args.clips is None):
    raise ValueError("Pass either --data=DATASET, of launch.encode, or --clips=FOLDER, of videos with captions.")
  cfg = config_of(args, others)
  mesh = meshes.make_mesh(cfg.mesh)
  if args.clips:
    buckets = buckets_lib.parse(args.buckets) if args.buckets else (cfg.sample.bucket,)
    print(finetune.encode_clips(args.clips, _absolute(pathlib.Path(args.workdir) / "dataset"), cfg, buckets))
  finetune.check_count(cfg)
  if cfg.adapter.rank:
    cfg = finetune.with_digest(cfg, mesh)
  else:
    finetune.start(args.workdir, args.weights, cfg)
  return loop.prepare(cfg, args.workdir)


def config_of(args: argparse.Namespace, others: list[str]) -> config.Config:
  """The config of the network, changed by the recipe and then by the flags."""
  base = finetune.base_config(args.weights, config.from_config_dict(motif_2b.get_config()))
  c = recipes.recipe(ConfigDict(config.to_dict(base)), rank=args.rank)
  c.adapter.update(dict(base=_absolute(args.weights), alpha=args.alpha or float(max(args.rank, 1))))
  data = _absolute(args.data or pathlib.Path(args.workdir) / "dataset")
  c.data.update(dict(path="", mixture=((data, 1.0), (_absolute(args.keep), 1.0))) if args.keep else dict(path=data, mixture=()))
  c.sample.prompts = tuple(args.prompt)
  c.mesh.update(dict(data=-1, fsdp=1, sequence=1))
  if args.targets:
    c.adapter.targets = tuple(args.targets.split(","))
  given = {"train.steps": args.steps, "optimizer.rate": args.rate, "data.batch_size": args.batch,
           "data.image_to_video": args.image_to_video}
  others = [f"--config.{path}={value}" for path, value in given.items() if value is not None] + others
  for flag in others:
    path, _, text = flag.removeprefix("--config.").partition("=")
    config_dict.change(c, path, text)
  return config.from_config_dict(c)


def _absolute(path) -> str:
  return str(pathlib.Path(path).absolute())


if __name__ == "__main__":
  main()
