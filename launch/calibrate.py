"""Finds which steps of sampling can be left out, and measures what that costs, for `launch.sample --cache=FILE`:

  python -m launch.calibrate --checkpoint=WORKDIR --prompts=FILE --speedup=1.5,2 --output=DIR

Inexact, unlike all that is on by default.  Exact trajectories of the first half of the prompts say how well the velocity of each
step can be foretold from earlier ones; the error is measured against exact sampling of the other half.  Writes a file for
each speed-up.  Without prompts, those of an embedded data set, whose judge also scores them.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import jax

from launch import arguments, model
from motif_jax.data import buckets, videos
from motif_jax.evaluate import calibration, subject as subjects
from motif_jax.evaluate.benchmarks import BENCHMARKS


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.calibrate", __doc__)
  model.add_flags(parser)
  add = parser.add_argument
  add("--prompts", help="a text file with a prompt per line, two at least")
  add("--count", type=arguments.at_least(2), default=32, help="without --prompts: of those of an embedded data set")
  add("--benchmark", choices=BENCHMARKS, help="which one; by default `train.benchmark` of the run")
  add("--bucket", help="FRAMESxHEIGHTxWIDTH in pixels; by default the config's")
  add("--speedup", default="1.5,2", help="steps over steps computed; several with commas")
  add("--order", type=int, default=1, choices=(0, 1), help="a step left out takes the last velocity (0) or follows a line (1)")
  add("--seed", type=int, default=0)
  add("--batch", type=int, default=4, help="videos made at once")
  add("--output", default=".", help="folder of the files")
  arguments.add_sampling(parser)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    speedups = arguments.numbers("speedup", args.speedup)
    if min(speedups) < 1 or args.batch < 1:
      raise ValueError(f"--speedup={args.speedup} --batch={args.batch}: expected speed-ups of 1 or more and at least 1 video.")
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    pipe, source, seen, fresh, how = prepare(args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  with jax.set_mesh(pipe.mesh):
    print(f"exact walks of {len(seen.prompts)} prompts", flush=True)
    schedules = calibration.schedules(seen, speedups, order=args.order)
    exact = subjects.latents(fresh)
    for schedule in schedules:
      said = dict(holds_for=how, **schedule, error=calibration.errors(fresh, schedule, exact), measured_on=source)
      file = output / f"cache-{schedule['speedup']:g}x.json"
      with videos.replacing(file) as temporary:
        temporary.write_text(json.dumps(said, indent=1))
      print(f"{file}: {arguments.cache_line(said)}", flush=True)


def prepare(args: argparse.Namespace):
  """(the pipeline, the flags that name it, the subject of the exact walks, that of the measurement, the flags of sampling that
  the schedules hold for)."""
  prompts, clips = arguments.read_prompts(args.prompts) if args.prompts else None, None
  pipe, source = model.find(args)
  cfg, how = arguments.sampling(args, pipe.cfg)
  benchmark = BENCHMARKS[args.benchmark or cfg.train.benchmark]
  if prompts is None:
    clips, prompts = benchmark.held_out_prompts(args.count, args.seed)
  if len(prompts) < 2:
    raise ValueError(f"There is one prompt in {args.prompts}, expected at least 2: one half calibrates, the other measures.")
  bucket = buckets.one(args.bucket) if args.bucket else cfg.sample.bucket
  pipe = dataclasses.replace(pipe, cfg=dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, bucket=bucket)))
  pipe.grid(bucket)  # raises
  half = len(prompts) // 2
  judge = (lambda frames: benchmark.score(frames, clips[half:])) if clips else None
  subject = model.subject_of(pipe, prompts, seed=args.seed, batch=args.batch)
  fresh = subject._replace(prompts=prompts[half:], key=jax.random.key(args.seed + 1), judge=judge)
  return pipe, source, subject._replace(prompts=prompts[:half]), fresh, how


if __name__ == "__main__":
  main()
