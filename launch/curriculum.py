"""Walks the ten stages of the recipe, each from the last one's checkpoint; stopped at any moment, the same command goes on:

  python -m launch.curriculum --workdir=DIR --data=/sets/{stage} [--stages=1-10] [--start=CHECKPOINT]
  python -m launch.curriculum --workdir=DIR --small

--data is the folder of each stage's encoded data set, with {stage} for "stage_01" and so on.  --small walks a shrunken
copy on moving shapes that are rendered on the way: minutes on a CPU.
"""

import argparse
import importlib
import sys

import jax

from launch import arguments
from configs import curriculum as recipe
from motif_jax import config, config_dict, endings
from motif_jax.config import BucketConfig
from motif_jax.data import rendered
from motif_jax.data.extract import Devices, Encoders
from motif_jax.encoders import registry
from motif_jax.train import curriculum, lock, loop

COUNT = 160  # clips of each bucket of the small copy


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.curriculum", __doc__)
  add = parser.add_argument
  add("--workdir", required=True, help="a folder for each stage comes to lie in it")
  add("--stages", default="1-10", help="which to walk, such as 1-10, or 4,9")
  add("--start", help="checkpoint, or work directory, that the first of them starts from")
  add("--data", help="folder of the data sets, with {stage} in it")
  add("--set", action="append", default=[], help="key=value of every stage's config, such as model.attention=cudnn; repeatable")
  add("--small", action="store_true", help="the shrunken copy")
  add("--steps", type=int, default=60, help="of a stage of the shrunken copy")
  add("--width", type=int, default=64, help="of the model of the shrunken copy")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  arguments.keep_programs()
  try:
    if args.small == bool(args.data):
      raise ValueError("give --data=FOLDER/{stage}, or --small, which makes its own data.")
    stages = [curriculum.Stage(name, config_of(name, args)) for name in map("stage_{:02d}".format, numbers(args.stages))]
    with lock.held(args.workdir):
      done = curriculum.walk(stages, args.workdir, start=args.start, prepare=small_job if args.small else loop.prepare)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  except endings.Ending as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(e.status)
  if not done:
    sys.exit(endings.INTERRUPTED)
  print(f"all stages are done; the last one is in {args.workdir}/{stages[-1].name}")


def numbers(text: str) -> list[int]:
  """The stages of "1-3,9", in order."""
  try:
    ends = [tuple(map(int, part.split("-"))) for part in text.split(",")]
    found = sorted({n for first, *last in ends for n in range(first, (last or [first])[0] + 1)})
  except ValueError as e:
    raise ValueError(f"--stages={text} is no list of stages such as 1-10 or 4,9.") from e
  if not found or found[0] < 1 or found[-1] > 10:
    raise ValueError(f"--stages={text}: the stages are 1 to 10.")
  return found


def config_of(name: str, args) -> config.Config:
  """The config of a stage, as it is or shrunken."""
  c = importlib.import_module(f"configs.stages.{name}").get_config()
  if args.small:
    recipe.shrunken(c, steps=args.steps, width=args.width)
  else:
    c.data.path = args.data.replace("{stage}", name)
  for key, equals, value in (change.partition("=") for change in args.set):
    if not equals:
      raise ValueError(f"--set={key} is not key=value, such as model.attention=cudnn.")
    config_dict.change(c, key, value)
  return config.from_config_dict(c)


def small_job(cfg: config.Config, folder: str) -> loop.Job:
  """The job of a stage of the small copy: its largest clips and, where those are videos, images of the same size."""
  video = cfg.sample.bucket
  counts = {video: COUNT, BucketConfig(1, video.height, video.width): COUNT}
  devices = Devices(jax.jit, place=lambda x: x, rows=lambda bucket: 32)
  encoders = Encoders(*registry.of_data(cfg))
  made = rendered.dataset(encoders, counts, devices, benchmark=cfg.train.benchmark, seed=cfg.seed)
  return loop.prepare(cfg, folder, dataset=made)


if __name__ == "__main__":
  main()
