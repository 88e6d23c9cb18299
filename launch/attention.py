"""Looks at where a model's attention goes, block by block, and writes attention.json and attention.png (docs/attention.md):

  python -m launch.attention --checkpoint=WORKDIR --prompts=FILE --times=0.1,0.5,0.9 --buckets=9x32x32,33x32x32 --output=DIR

The model makes a video for each prompt, of each size, and is looked at while it denoises those.  Without prompts: those of an
embedded data set.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import jax

from launch import arguments, model
from motif_jax.data import buckets, videos
from motif_jax.evaluate import attention, plots
from motif_jax.evaluate.benchmarks import BENCHMARKS

PUBLISHED = dict(mean=0.076, weakest=0.052)  # cross-attention's write relative to the residual (the report's own model)


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.attention", __doc__)
  model.add_flags(parser)
  add = parser.add_argument
  add("--prompts", help="a text file with a prompt per line")
  add("--count", type=arguments.at_least(1), default=8, help="without --prompts: of those of an embedded data set")
  add("--benchmark", choices=BENCHMARKS, help="which one; by default `train.benchmark` of the run")
  add("--times", default="0.1,0.5,0.9", help="how noisy the videos are that are looked at: 0 is data, 1 is noise")
  add("--buckets", help="sizes in pixels, FRAMESxHEIGHTxWIDTH with commas; by default the config's")
  add("--seed", type=int, default=0)
  add("--batch", type=int, default=1, help="videos at once; rounded up to what the mesh deals evenly")
  add("--output", required=True, help="folder of the results")
  arguments.add_sampling(parser)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    said = look(args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  output = pathlib.Path(args.output)
  with videos.replacing(output / "attention.json") as temporary:
    temporary.write_text(json.dumps(said, indent=1))
  plots.draw(output / "attention.png", panels(said), columns=2)
  print(table(said))
  print(f"wrote {output / 'attention.json'} and attention.png")


def look(args: argparse.Namespace) -> dict:
  """What attention.json says; ValueError for what cannot be."""
  times = arguments.times(args.times)
  given = arguments.read_prompts(args.prompts) if args.prompts else None
  if args.batch < 1:
    raise ValueError(f"--batch={args.batch}: expected at least 1 video at once.")
  pipe, source = model.find(args)
  cfg, how = arguments.sampling(args, pipe.cfg)
  pipe, sizes = dataclasses.replace(pipe, cfg=cfg), buckets.parse(args.buckets) if args.buckets else (cfg.sample.bucket,)
  for size in sizes:
    pipe.grid(size)  # says which sizes cannot be, before anything is made
  pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)  # raises
  prompts = given or BENCHMARKS[args.benchmark or cfg.train.benchmark].held_out_prompts(args.count, args.seed)[1]
  subject = model.subject_of(pipe, prompts, seed=args.seed, batch=args.batch)
  made, began = {}, time.perf_counter()
  with jax.set_mesh(pipe.mesh):
    for size in sorted(sizes, key=buckets.volume):
      name = buckets.name(size)
      made[name] = attention.look(subject.sampled(bucket=size), times)
      print(f"{name}: {made[name]['tokens']} tokens, after {time.perf_counter() - began:.0f} s", flush=True)
  return dict(**source, **how, seed=args.seed, prompts=prompts, times=times, published=PUBLISHED, buckets=made)


def table(said: dict) -> str:
  """The summaries as lines to read."""
  heads = ("frames: uniform", "encoder", "decoder", "text: uniform", "blocks", "write: mean", "weakest")
  lines = [f"{'bucket':14}{'tokens':>8}{'t':>6}" + "".join(f"{head:>{len(head) + 2}}" for head in heads)]
  for name, bucket in said["buckets"].items():
    for t in said["times"]:
      told = attention.summary([row for row in bucket["rows"] if row["t"] == t])
      values = (bucket["uniform"]["other_frames"], *told["other_frames"].values(), bucket["uniform"]["text"], told["text"],
                *told["cross_write"].values())
      shown = ("-" if value is None else f"{value:.1%}" for value in values)
      line = "".join(f"{text:>{len(head) + 2}}" for text, head in zip(shown, heads))
      lines.append(f"{name:14}{bucket['tokens']:8}{t:6g}{line}")
  return "\n".join(lines)


def panels(said: dict) -> list[plots.Panel]:
  """Frames, text and writes by block, of the largest size; text over the length of the sequence where there are several."""
  *_, (name, largest) = said["buckets"].items()
  uniform, label = largest["uniform"], f"block ({', '.join(f'{kind} from {i}' for kind, i in _first(largest['rows']).items())})"
  wanted = (
      ("other_frames", "Attention on other frames", "share of video-to-video attention", "uniform", uniform["other_frames"]),
      ("text", "Attention on text", "share of the video's attention", "uniform", uniform["text"]),
      ("cross_write", "Cross-attention's write", "relative to the residual", "published mean", PUBLISHED["mean"]),
  )
  drawn = []
  for value, title, y, reference, at in wanted:
    rows = [row for row in largest["rows"] if value in row]
    if rows:
      blocks = sorted({row["block"] for row in rows})
      curves = {f"t = {t:g}": (blocks, [row[value] for row in rows if row["t"] == t]) for t in said["times"]}
      drawn.append(plots.Panel(f"{title}, {name}", label, y, curves | {reference: (blocks, [at] * len(blocks))}))
  if len(said["buckets"]) > 1 and any("text" in row for row in largest["rows"]):
    sizes = said["buckets"].values()
    tokens = [size["tokens"] for size in sizes]
    of = lambda t: [attention.summary([row for row in size["rows"] if row["t"] == t])["text"] for size in sizes]
    curves = {f"t = {t:g}": (tokens, of(t)) for t in said["times"]}
    curves["uniform"] = (tokens, [size["uniform"]["text"] for size in sizes])
    drawn.append(plots.Panel("Attention on text as the sequence grows", "video tokens", "share, mean over blocks", curves,
                             log_x=True, log_y=True))
  return drawn


def _first(rows):
  """Kind of block -> number of its first block, in the order of the network."""
  first = {}
  for row in rows:
    first.setdefault(row["kind"], row["block"])
  return first


if __name__ == "__main__":
  main()
