"""Measures how far the prompt decides what a model does as the video grows (docs/results.md):

  python -m launch.control --checkpoint=WORKDIR --benchmark=scenes --times=0.5,0.9 --buckets=9x32x32,33x64x64 --output=DIR

Clips of the embedded benchmark are rendered in each size and noised; the model is asked with the caption of each and with that
of another, with its cross-attention and without.  Writes control.json and control.png.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

from launch import arguments, model
from motif_jax import sample
from motif_jax.config import BucketConfig
from motif_jax.data import buckets, extract, videos
from motif_jax.data.embedded import SETS
from motif_jax.evaluate import control, plots


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.control", __doc__)
  model.add_flags(parser)
  add = parser.add_argument
  add("--benchmark", choices=SETS, help="what the clips show; by default `train.benchmark` of the run")
  add("--times", default="0.5,0.9", help="how noisy they are: 0 is data, 1 is noise")
  add("--buckets", required=True, help="sizes in pixels, FRAMESxHEIGHTxWIDTH with commas")
  add("--counts", default="8", help="clips of each size, the smallest first, with commas; the last one counts on")
  add("--seed", type=int, default=0)
  add("--batch", type=int, default=1, help="clips at once")
  add("--output", required=True, help="folder of the results")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    said = look(args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(table(said))


def look(args: argparse.Namespace) -> dict:
  """What control.json says; it is written anew after each size."""
  times, sizes = arguments.times(args.times), sorted(buckets.parse(args.buckets), key=buckets.volume)
  counts = arguments.numbers("counts", args.counts, int)
  if min(counts) < 1 or len(counts) > len(sizes) or args.batch < 1:
    raise ValueError(f"--counts={args.counts} --batch={args.batch}: expected at least 1 clip of each of {len(sizes)} sizes, and "
                     "at least 1 at once.")
  counts += counts[-1:] * (len(sizes) - len(counts))
  found = model.read(args)
  benchmark = args.benchmark or found.cfg.train.benchmark
  codec, text = sample.encoders_of(found.cfg, found.mesh)
  said = dict(**found.source, benchmark=benchmark, seed=args.seed, times=times, buckets={})
  output = pathlib.Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  key, began = jax.random.key(args.seed), time.perf_counter()
  with jax.set_mesh(found.mesh):
    for bucket, count in zip(sizes, counts):
      sample.latent_grid(found.cfg, codec, bucket)  # says which sizes cannot be
      clips = clips_of(SETS[benchmark], bucket, count, args.seed, codec, text, found.cfg.data.text_tokens)
      tokens = int(np.prod(clips.latents.shape[1:4]) // np.prod(found.cfg.model.patch))
      rows = control.look(found.params, found.cfg.model, clips, times, key=key, batch=args.batch)
      said["buckets"][buckets.name(bucket)] = dict(tokens=tokens, clips=count, rows=rows,
                                                   text_tokens=float(clips.own[1].sum(1).mean()))
      print(f"{buckets.name(bucket)}: after {time.perf_counter() - began:.0f} s", flush=True)
      with videos.replacing(output / "control.json") as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n")
  plots.draw(output / "control.png", panels(said), columns=3)
  return said


def clips_of(benchmark, bucket: BucketConfig, count: int, seed: int, codec, text_encoder, tokens: int) -> control.Clips:
  """`count` clips of combinations that training never saw, the first of them alike in every size, with long captions.

  The stranger's caption is that of the next one.
  """
  known, latents, captions = benchmark.combinations(held_out=True), [], []
  order = np.random.default_rng(seed).permutation(len(known))
  for i in range(count + 1):
    rng = np.random.default_rng([seed, i])
    captions.append(benchmark.caption_long(known[order[i]], rng))
    if i < count:
      video = benchmark.render(known[order[i]], rng, frames=bucket.frames, height=bucket.height, width=bucket.width)
      latents.append(np.asarray(codec.encode(extract.signed(video[None])))[0])
  text, mask = sample.encode_prompts(text_encoder, captions, tokens)
  return control.Clips(np.stack(latents), (text[:-1], mask[:-1]), (text[1:], mask[1:]))


def table(said: dict) -> str:
  """The results as a table in markdown."""
  heads = ("size", "video tokens", "clips", "t", "text share", "change", "gain", "change, cross off", "gain, cross off")
  lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
  for name, bucket in said["buckets"].items():
    for t in said["times"]:
      on, off = ([row for row in bucket["rows"] if (row["t"], row["cross"]) == (t, cross)] for cross in ("on", "off"))
      values = [_told(row[0], value) if row else "-" for row in (on, off) for value in ("change", "gain")]
      where = [name, f"{bucket['tokens']:,}", str(bucket["clips"]), f"{t:g}"]
      lines.append("| " + " | ".join([*where, _percent(on[0]["text"]), *values]) + " |")
  return "\n".join(lines)


def _told(row, name):
  error = row.get(f"{name}_error")  # of one clip there is none
  return _percent(row[name]) + ("" if error is None else f" ± {_percent(error)}")


def _percent(share):
  return f"{share:.1%}" if abs(share) >= 0.005 else f"{100 * share:.2g}%"


def panels(said: dict) -> list[plots.Panel]:
  """Share, change and gain over the length of the sequence."""
  drawn, sizes = [], said["buckets"].values()
  tokens = [size["tokens"] for size in sizes]
  for name, title in (("text", "attention on text"), ("change", "another prompt: change of velocity"), ("gain", "its error")):
    curves = {}
    for t in said["times"]:
      for cross in ("on", "off"):
        rows = [row for size in sizes for row in size["rows"] if (row["t"], row["cross"]) == (t, cross) and name in row]
        if rows:
          label = f"t = {t:g}" + (", cross-attention off" if cross == "off" else "")
          curves[label] = (tokens, [row[name] for row in rows], [row.get(f"{name}_error", 0) for row in rows])
    drawn.append(plots.Panel(title, "video tokens", "share", curves, log_x=True))
  return drawn


if __name__ == "__main__":
  main()
