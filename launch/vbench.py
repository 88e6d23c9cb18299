"""Samples VBench's prompts for its evaluator, and prints the evaluator's results beside the published ones (docs/vbench.md):

  python -m launch.vbench --checkpoint=WORKDIR --suite=VBench_full_info.json --output=DIR
  python -m launch.vbench --table=RESULTS

Videos are called as the evaluator looks for them, in DIR/videos; DIR/vbench.json says how they were made.  The same command goes
on where it was stopped.  With --part=2/8, and the other parts elsewhere, eight machines share the work: a video depends on the
suite, the seed and its name, not on the part.  Without --suite: that of the installed package `vbench`.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import re
import shlex
import sys
import time

from launch import arguments, model
from motif_jax.data import buckets, videos
from motif_jax.evaluate import vbench
from motif_jax.train import metrics


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.vbench", __doc__)
  model.add_flags(parser)
  add = parser.add_argument
  add("--table", help="results of the evaluator, a file or a folder: prints them, and samples nothing")
  add("--suite", help="VBench_full_info.json, or a text file with a prompt per line")
  add("--rewritten", help="a text file with a line for each entry of the suite, which the model is given instead of it")
  add("--dimensions", default="", help=f"with commas; by default all of {', '.join(vbench.DIMENSIONS)}")
  add("--part", default="1/1", help="I/N: the I-th of N parts of the work")
  add("--seed", type=int, default=0)
  add("--bucket", help="FRAMESxHEIGHTxWIDTH in pixels; by default the config's")
  add("--batch", type=int, default=4, help="videos made at once; rounded up to what the mesh deals evenly")
  add("--output", default="vbench", help="folder of the results")
  arguments.add_sampling(parser)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    print(vbench.table(vbench.read_results(args.table)) if args.table else make(args))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


def make(args: argparse.Namespace) -> str:
  """What to do next, after making the videos that are missing."""
  suite = pathlib.Path(args.suite) if args.suite else vbench.installed_suite()
  prompts = vbench.read_suite(suite, args.rewritten)
  dimensions = [name for name in args.dimensions.split(",") if name]
  wanted = part_of(vbench.videos_of(prompts, dimensions), args.part)
  if args.batch < 1:
    raise ValueError(f"--batch={args.batch}: expected at least 1 video at once.")
  pipe, source = model.find(args)
  cfg, how = arguments.sampling(args, pipe.cfg)
  bucket = buckets.one(args.bucket) if args.bucket else cfg.sample.bucket
  output = pathlib.Path(args.output)
  pipe = dataclasses.replace(pipe, cfg=dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, bucket=bucket)),
                             cache=output / "prompts")
  pipe.grid(bucket)  # raises
  folder = output / "videos"
  folder.mkdir(parents=True, exist_ok=True)
  digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
  remember(output / "vbench.json", source | dict(seed=args.seed, bucket=buckets.name(bucket), suite=digest) | how)
  missing = [video for video in wanted if not (folder / video.file).exists()]
  print(f"{len(wanted) - len(missing)} of {len(wanted)} videos are there", flush=True)
  for done, (video, frames, took) in enumerate(frames_of(pipe, prompts, missing, args), start=1):
    videos.write_mp4(folder / video.file, frames, fps=cfg.sample.fps)
    left = metrics.duration(took / done * (len(missing) - done))
    print(f"{done} of {len(missing)} after {metrics.duration(took)}, {left} left: {video.file}", flush=True)
  return next_steps(output, suite if args.suite else None, dimensions or vbench.DIMENSIONS)


def frames_of(pipe, prompts: list, missing: list, args: argparse.Namespace):
  """Yields (video, its frames, seconds since the first was begun) for each of `missing`."""
  if not missing:
    return
  *texts, empty = pipe.texts([prompt.text for prompt in prompts])
  # Of the whole suite, whatever is missing: a number is a place in this list, and the longest text says how all are padded.
  texts = [text for text in texts for _ in range(vbench.FLICKER_SAMPLES)]
  began = time.perf_counter()
  latents = pipe.latents([*texts, empty], [video.number for video in missing], seed=args.seed, batch=args.batch)
  for video, frames in zip(missing, pipe.frames(latents, batch=args.batch)):
    yield video, frames, time.perf_counter() - began


def part_of(wanted: list, text: str) -> list:
  """Every N-th of `wanted` from the I-th on, for I/N."""
  given = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
  if not given or int(given[1]) > int(given[2]):
    raise ValueError(f"--part={text} is not I/N with I from 1 to N, such as 2/8.")
  return wanted[int(given[1]) - 1::int(given[2])]


def remember(file: pathlib.Path, settings: dict) -> None:
  """Writes how the videos of a folder are made; ValueError where earlier ones were made otherwise."""
  if file.exists():
    before = json.loads(file.read_text())
    other = [f"{name}={settings.get(name)} (before: {before.get(name)})" for name in sorted(settings.keys() | before.keys())
             if settings.get(name) != before.get(name)]
    if other:
      raise ValueError(f"{file.parent} holds videos that were made otherwise: {', '.join(other)}. Pass another --output.")
  with videos.replacing(file) as temporary:
    temporary.write_text(json.dumps(settings, indent=1))


def next_steps(output: pathlib.Path, suite: pathlib.Path | None, dimensions) -> str:
  """The commands of the evaluator, which is a program of its own, in an environment of its own."""
  folder, static, results = output / "videos", output / "static", output / "results"
  suite_flags = ["--full_json_dir", str(suite)] if suite is not None and suite.suffix == ".json" else []
  lines = ["The evaluator (pip install vbench, with detectron2, on a GPU):"]
  for name in dimensions:
    path = folder
    if name == "temporal_flickering":  # of still videos alone; the filter keeps five of each prompt and numbers them anew
      lines.append(shlex.join(["vbench", "static_filter", "--videos_path", str(folder), "--result_path", str(static)]))
      path = static / "filtered_videos"
    lines.append(shlex.join(["vbench", "evaluate", "--videos_path", str(path), "--dimension", name, "--output_path", str(results),
                             *suite_flags]))
  lines.append(shlex.join(["python", "-m", "launch.vbench", f"--table={results}"]))
  if others := sorted(file.name for file in folder.iterdir() if file.suffix != ".mp4"):
    # It looks for names that end as the first one that the folder lists.
    lines.append(f"Take out of {folder} first what is no video, or the evaluator may find none: {', '.join(others[:5])}")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
