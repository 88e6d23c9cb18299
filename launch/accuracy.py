"""Measures what the settings of sampling do to what comes out, on a model of an embedded data set:

  python -m launch.accuracy --checkpoint=WORKDIR --output=DIR

Distance to a solution of 500 steps against evaluations of the velocity, for each sampler; the judge's score against guidance, for
guidance in intervals, for left-out steps and from a given first frame.  Writes accuracy.json part by part, so that the same
command goes on where it was stopped, and accuracy.png.  The text encoder is read and let go of before network and codec are.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np

from launch import arguments, model
from motif_jax.data import videos
from motif_jax.data.embedded import SETS
from motif_jax.evaluate import accuracy, plots
from motif_jax.evaluate.benchmarks import BENCHMARKS
from motif_jax.evaluate.subject import Subject

PARTS = ("solvers", "guidance", "intervals", "caches", "pictures")
EVALUATIONS = (4, 6, 8, 10, 14, 20, 30, 50)
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)
INTERVALS = ((0.0, 1.0), (0.2, 1.0), (0.5, 1.0), (0.8, 1.0), (0.0, 0.9), (0.0, 0.5))
SPEEDUPS = (1.5, 2.0, 3.0)


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.accuracy", __doc__)
  model.add_flags(parser)
  add = parser.add_argument
  add("--benchmark", choices=BENCHMARKS, help="whose prompts and judge; by default `train.benchmark` of the run")
  add("--only", default=",".join(PARTS), help="parts with commas")
  add("--solved", type=arguments.at_least(1), default=16, help="prompts of what is held against the solution alone")
  add("--count", type=arguments.at_least(1), default=256, help="prompts of what is scored")
  add("--seed", type=int, default=0)
  add("--batch", type=arguments.at_least(1), default=64, help="videos made at once")
  add("--output", default=".", help="folder of the results")
  arguments.add_sampling(parser)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    wanted = [part.strip() for part in args.only.split(",")]
    if unknown := set(wanted) - set(PARTS):
      raise ValueError(f"--only={args.only} names {', '.join(sorted(unknown))}, expected some of {', '.join(PARTS)}.")
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    pipe, source = model.find(args)
    cfg, how = arguments.sampling(args, pipe.cfg)
    benchmark = args.benchmark or cfg.train.benchmark
    clips, prompts = BENCHMARKS[benchmark].held_out_prompts(args.count, args.seed)
    # Calibrated with other prompts and other noise than those that are measured.
    _, others = BENCHMARKS[benchmark].held_out_prompts(args.solved, args.seed + 1)
    pipe = dataclasses.replace(pipe, cfg=cfg)
    pipe.grid(cfg.sample.bucket)  # raises
    subject = model.subject_of(pipe, prompts, seed=args.seed, batch=args.batch, also=others)
    calibrated_on = subject._replace(prompts=others, key=jax.random.key(args.seed + 1))
    subject = subject._replace(judge=lambda made: BENCHMARKS[benchmark].score(made, clips))
    file = output / "accuracy.json"
    said = json.loads(file.read_text()) if file.exists() else {}
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  with jax.set_mesh(pipe.mesh):
    for part in wanted:
      asked = dict(**source, **how, benchmark=benchmark, seed=args.seed, prompts=args.solved if part == "solvers" else args.count)
      if said.get(part, {}).get("asked") != asked:
        said[part] = dict(asked=asked, rows=measure(part, subject, calibrated_on, clips, SETS[benchmark].render, args))
        with videos.replacing(file) as temporary:
          temporary.write_text(json.dumps(said, indent=1))
      print(f"{part}: {asked['prompts']} prompts", *(line(row, benchmark) for row in said[part]["rows"]), sep="\n  ", flush=True)
  plots.draw(output / "accuracy.png", panels(said))
  print(f"wrote {file} and accuracy.png")


def measure(part: str, subject: Subject, calibrated_on: Subject, clips: list, render: Callable,
            args: argparse.Namespace) -> list[dict]:
  """The rows of one part; `clips` are what the prompts of the subject ask for, `render` shows them."""
  few = subject._replace(prompts=subject.prompts[:args.solved])
  if part == "solvers":
    return accuracy.solvers(few, EVALUATIONS, exact=accuracy.solution(few))
  if part == "guidance":
    return accuracy.guidance(subject, SCALES)
  if part == "intervals":
    return accuracy.intervals(subject, INTERVALS)
  if part == "pictures":
    return accuracy.pictures(subject, clips, render, seed=args.seed)
  return accuracy.caches(subject, calibrated_on, SPEEDUPS, few=args.solved)


def line(row: dict, benchmark: str) -> str:
  """A row of a part as text."""
  shown = {name: value for name, value in row.items() if name != "scores"}
  if "scores" in row:
    shown |= {name: row["scores"][name] for name in scored(benchmark)}
  return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items())


def scored(benchmark: str) -> list[str]:
  """What its judge reads of a clip, all of it together first."""
  return list(dict.fromkeys(("all", *BENCHMARKS[benchmark].CHANCE)))


def panels(said: dict) -> list[plots.Panel]:
  """What the parts that are there show."""
  drawn = []
  if "solvers" in said:
    rows = said["solvers"]["rows"]
    curves = {name: tuple(zip(*((r["evaluations"], r["latents"]) for r in rows if r["sampler"] == name)))
              for name in dict.fromkeys(r["sampler"] for r in rows)}
    drawn.append(plots.Panel("Distance to 500 steps of Heun", "evaluations of the velocity", "relative error of latents", curves,
                             log_x=True, log_y=True))
  if "guidance" in said:
    rows, count = said["guidance"]["rows"], said["guidance"]["asked"]["prompts"]
    curves = {}
    for name in scored(said["guidance"]["asked"].get("benchmark", "shapes")):  # not said as long as there was one
      scores = np.array([row["scores"][name] for row in rows])
      curves[name] = ([row["scale"] for row in rows], scores, np.sqrt(scores * (1 - scores) / count))
    drawn.append(plots.Panel("Guidance raises the score", "scale", f"share right of {count} prompts", curves))
  if "caches" in said:
    rows = said["caches"]["rows"]
    curves = {name: tuple(zip(*((r["computed"], r["latents"]) for r in rows if r["way"] == name)))
              for name in dict.fromkeys(r["way"] for r in rows) if name != "exact"}
    drawn.append(plots.Panel("Steps left out", f"evaluations, of {rows[0]['computed']}", "relative error against exact sampling",
                             curves, log_y=True))
  return drawn


if __name__ == "__main__":
  main()
