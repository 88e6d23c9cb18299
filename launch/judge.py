"""Scores a model on an embedded data set, with prompts whose combination of attributes it never saw in training:

  python -m launch.judge --checkpoint=WORKDIR --count=256
  python -m launch.judge --checkpoint=WORKDIR --count=256 --benchmark=scenes

Writes scores.json and contact_sheet.png.  "Shuffled" scores each video against the next one's prompt: what chance would give.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np

from launch import arguments, model
from motif_jax.data import buckets, shapes, videos
from motif_jax.evaluate.benchmarks import BENCHMARKS
from motif_jax.pipeline import Pipeline
from motif_jax.train import checkpoint

ROWS = 12  # of the contact sheet


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.judge", __doc__)
  add = parser.add_argument
  model.add_flags(parser)
  add("--benchmark", choices=BENCHMARKS, help="whose prompts and judge; by default `train.benchmark` of the run")
  add("--count", type=int, default=256, help="number of prompts")
  add("--seed", type=int, default=0, help="of prompts and noise")
  add("--colour", help=f"of shapes, prompts for a new colour: {', '.join(shapes.NEW_COLOURS)}")
  arguments.add_sampling(parser)
  add("--batch", type=int, default=64, help="videos made at once")
  add("--output", help="folder of the results; by default one in the work directory")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  arguments.keep_programs()
  try:
    if args.count < 2 or args.batch < 1:
      raise ValueError(f"--count={args.count} --batch={args.batch}: expected at least 2 prompts and 1 video at once.")
    print(table(judge(args)))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


def judge(args: argparse.Namespace) -> dict:
  """What scores.json says, after writing it and the contact sheet."""
  if args.checkpoint is None:
    raise ValueError("Pass --checkpoint=WORKDIR, of a run on the embedded data set; other models have nothing for this judge.")
  pipe, source = model.find(args)
  folder, step = checkpoint.find(source["checkpoint"])
  cfg, how = arguments.sampling(args, pipe.cfg)
  name = args.benchmark or cfg.train.benchmark
  benchmark = BENCHMARKS[name]
  clips, prompts = benchmark.held_out_prompts(args.count, args.seed, args.colour)
  output = pathlib.Path(args.output) if args.output else folder.parent / f"judged-step-{step}-seed-{args.seed}"
  output.mkdir(parents=True, exist_ok=True)
  made = list(make(dataclasses.replace(pipe, cfg=cfg), prompts, seed=args.seed, batch=min(args.batch, args.count)))
  videos.write_contact_sheet(output / "contact_sheet.png", made[:ROWS], columns=cfg.sample.bucket.frames)
  shuffled = [*clips[1:], clips[0]]  # they come in random order; a permutation drawn anew would leave some in their place
  scores = dict(
      **source, benchmark=name, step=step, count=args.count, seed=args.seed, bucket=buckets.name(cfg.sample.bucket), **how,
      held_out=benchmark.score(made, clips), shuffled=benchmark.score(made, shuffled), chance=benchmark.CHANCE,
      contact_sheet=str(output / "contact_sheet.png"), prompts=prompts[:ROWS],
  )
  with videos.replacing(output / "scores.json") as temporary:
    temporary.write_text(json.dumps(scores, indent=1))
  return scores


def make(pipe: Pipeline, prompts: list[str], *, seed: int, batch: int) -> Iterator[np.ndarray]:
  """Yields the frames of each prompt; one model at a time is in memory."""
  pipe.grid(pipe.cfg.sample.bucket)  # raises
  latents, began = [], time.perf_counter()
  for one in pipe.latents(pipe.texts(prompts), range(len(prompts)), seed=seed, batch=batch):
    latents.append(one)
    if len(latents) % batch == 0 or len(latents) == len(prompts):
      print(f"latents of {len(latents)} of {len(prompts)} after {time.perf_counter() - began:.0f} s", flush=True)
  yield from pipe.frames(latents, batch=batch)


def table(scores: dict) -> str:
  """The scores as lines to read."""
  lines = [f"step {scores['step']}, {scores['count']} held-out prompts, seed {scores['seed']}, guidance {scores['guidance']:g}",
           f"{'':12}{'score':>8}{'shuffled':>10}{'chance':>8}"]
  for name, value in scores["held_out"].items():
    chance = f"{scores['chance'][name]:8.1%}" if name in scores["chance"] else ""
    lines.append(f"{name:12}{value:8.1%}{scores['shuffled'][name]:10.1%}{chance}")
  return "\n".join([*lines, f"contact sheet: {scores['contact_sheet']}"])


if __name__ == "__main__":
  main()
