"""Finds which steps of sampling can be left out, and measures what that costs, for `launch.sample --cache=FILE`:

  python -m launch.calibrate --checkpoint=WORKDIR --prompts=FILE --speedup=1.5,2 --output=DIR

Inexact, unlike all that is on by default.  Exact trajectories of the first half of the prompts say how well the velocity of each
step can be foretold from earlier ones; the error is measured against exact sampling of the other half.  Writes a file for
each speed-up.  Without prompts, those of the embedded data set, whose judge also scores them.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import jax

from launch import arguments, model
from motif_jax import sample
from motif_jax.data import buckets, videos
from motif_jax.evaluate import calibration, shapes, subject as subjects


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.calibrate", __doc__)
  model.add_flags(parser)
  add = parser.add_argument
  add("--prompts", help="a text file with a prompt per line, two at least")
  add("--count", type=int, default=32, help="without --prompts: of the embedded data set's")
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
    found, seen, fresh, how = prepare(args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  output = pathlib.Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  with jax.set_mesh(found.mesh):
    print(f"exact walks of {len(seen.prompts)} prompts", flush=True)
    schedules = calibration.schedules(seen, speedups, order=args.order)
    exact = subjects.latents(fresh)
    for schedule in schedules:
      said = dict(holds_for=how, **schedule, error=calibration.errors(fresh, schedule, exact), measured_on=found.source)
      file = output / f"cache-{schedule['speedup']:g}x.json"
      with videos.replacing(file) as temporary:
        temporary.write_text(json.dumps(said, indent=1))
      print(f"{file}: {arguments.cache_line(said)}", flush=True)


def prepare(args: argparse.Namespace):
  """(the model, the subject of the exact walks, that of the measurement, the flags of sampling that the schedules hold for)."""
  prompts, clips = read_prompts(args.prompts), None
  if prompts is None:
    clips, prompts = shapes.held_out_prompts(args.count, args.seed)
  if len(prompts) < 2:
    raise ValueError(f"There are {len(prompts)} prompts, expected at least 2: one half calibrates, the other measures.")
  found = model.read(args)
  cfg, how = arguments.sampling(args, found.cfg)
  bucket = buckets.one(args.bucket) if args.bucket else cfg.sample.bucket
  cfg = dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, bucket=bucket))
  codec, text = sample.encoders_of(cfg, found.mesh)
  half = len(prompts) // 2
  subject = subjects.Subject(found.params, cfg, codec, text, prompts[:half], jax.random.key(args.seed), args.batch)
  judge = (lambda frames: shapes.score(frames, clips[half:])) if clips else None
  fresh = subject._replace(prompts=prompts[half:], key=jax.random.key(args.seed + 1), judge=judge)
  sample.latent_grid(cfg, codec, bucket)
  return found, subject, fresh, how


def read_prompts(file: str | None) -> list[str] | None:
  """The lines of a file that are not blank; None where none is named."""
  return [line.strip() for line in pathlib.Path(file).read_text().splitlines() if line.strip()] if file else None


if __name__ == "__main__":
  main()
