"""What a run will read, and when, before it starts: python -m launch.schedule --config=configs/smoke.py --config.data.path=DATA

Steps and epochs of each bucket, the pattern, rows and tokens of a batch, and the rates at which a host must be fed; without
data.path only these rates, for the recipe's buckets.  Nothing is read but the data set's metadata.
"""

import argparse
import collections
import re
import sys

import numpy as np

from launch import arguments
from motif_jax import config
from motif_jax.budget import devices, feeding, recipe, workload
from motif_jax.budget.memory import size
from motif_jax.data import buckets, dataset as datasets, pipeline, record
from motif_jax.train import programs, step

WAN = (4, 8, 8)  # strides of the released codec


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.schedule", __doc__)
  add = parser.add_argument
  arguments.add_config(parser)
  add("--show", type=arguments.at_least(1), default=24, help="steps of the interleaved pattern to print")
  add("--device_kind", default="h200", help=f"one of {', '.join(devices.DEVICES)}")
  add("--utilisation", type=float, default=0.4, help="assumed share of the device's peak that executed FLOPs reach")
  add("--read", type=arguments.at_least(1e-6, float), default=1.0, help="GB/s that a host can read and unpack, as launch.feed "
      "measures it")
  add("--text", type=arguments.at_least(1), default=record.TYPICAL_TOKENS, help="without data: tokens of the three captions of a "
      "clip together")
  add("--teacher", default="8,8", help="without data: grid of the teacher's features, where alignment is on")
  return arguments.parse(parser, argv)


def of_data(cfg, dataset, show: int) -> list[str]:
  """Buckets, their batches and their steps."""
  found = pipeline.split_indices(dataset, cfg.data.validation)[0]
  order = pipeline.make_order(cfg.data, dataset, found, seed=cfg.seed, patch=cfg.model.patch)
  schedule, parts, clips = order.schedule, dataset.meta.parts, np.array([len(indices) for indices in found])
  planned = schedule.planned(cfg.train.steps)
  epochs = planned * schedule.rows / np.maximum(clips, 1)
  names = [buckets.name(part.bucket) for part in parts]
  letters = {name: chr(ord("A") + i) for i, name in enumerate(dict.fromkeys(names))}
  lines = [f"{'':<3}{'bucket':<16}{'clips':>10}{'held out':>10}{'tokens':>9}{'rows':>7}{'tokens a step':>15}{'steps':>10}"
           f"{'share':>8}{'epochs':>9}{'clips used':>12}"]
  for number, (part, name) in enumerate(zip(parts, names)):
    tokens, rows = tokens_of(cfg, part.spec.grid).video, schedule.rows[number]
    origin = f" of {cfg.data.mixture[dataset.origins[number]][0]}" if cfg.data.mixture else ""
    lines.append(f"{letters[name]:<3}{name:<16}{clips[number]:>10,}{part.records - clips[number]:>10,}{tokens:>9,}{rows:>7,}"
                 f"{tokens * rows:>15,}{planned[number]:>10,}{planned[number] / cfg.train.steps:>8.1%}{epochs[number]:>9.3g}"
                 f"{min(1, epochs[number]):>12.1%}{origin}")
  used = (clips * np.minimum(1, epochs)).sum()
  shown = min(show, cfg.train.steps)
  pictured = sum(int(schedule.pictured(number, np.arange(count)).sum()) for number, count in enumerate(planned))
  return lines + [
      f"all: {cfg.train.steps:,} steps, {int((planned * schedule.rows).sum()):,} samples of {clips.sum():,} clips; "
      f"{used / max(clips.sum(), 1):.1%} of the clips are used at least once",
      f"pattern: {' '.join(letters[names[schedule.at(i)[0]]] for i in range(shown))} ...",
      *([f"from a picture with its tokens: {pictured:,} steps"] if cfg.data.image_tokens else []),
      programs.line(programs.of_steps(cfg, dataset)),
      *of_order(cfg, order, parts),
  ]


def of_order(cfg, order, parts) -> list[str]:
  """How records are read."""
  if cfg.data.order == "random":
    return ["order: random; each record is read by itself, and a restart reads nothing again"]
  held = sum(min(cfg.data.window, part.records) * record.bytes_of(part.spec) for part in parts)
  lanes = collections.Counter(stream.lanes for stream in order.streams)
  said = ", ".join(f"{count} bucket(s) in {lane} lanes" for lane, count in sorted(lanes.items()))
  return [f"order: shards from first record to last, {said}; up to {cfg.data.window} records of each bucket are held, "
          f"{size(held)} in all processes together, and a restart reads at most twice as much again"]


def of_feeding(cfg, device, clips, args: argparse.Namespace) -> list[str]:
  """The rates at which one host must be fed.  `clips`: (bucket, latent grid, bytes of a clip)."""
  plan = step.plan_at(cfg, 0)
  lines = [f"feeding one host of {device.node} x {args.device_kind}, whose executed FLOPs reach {args.utilisation:.0%} of the "
           "peak; plan " + " | ".join(map(str, plan)),
           f"   {'bucket':<16}{'bytes a clip':>13}{'ms a clip and device':>22}{'clips/s':>10}{'bytes/s':>11}   of {args.read:g} "
           "GB/s"]
  for bucket, grid, count in clips:
    need = feeding.demand(cfg, tokens_of(cfg, grid), plan, device, clip_bytes=count, utilisation=args.utilisation)
    share = need.bytes / args.read / 1e9
    lines.append(f"   {buckets.name(bucket):<16}{size(count):>13}{1e3 * need.seconds:>22.3g}{need.clips:>10.3g}"
                 f"{size(need.bytes):>11}{share:>9.1%}{'  MORE THAN A HOST READS' if share > 1 else ''}")
  return lines


def recipe_clips(cfg, args: argparse.Namespace) -> list[tuple]:
  """(bucket, latent grid, bytes) of the recipe's clips, for the config's encoders."""
  if not re.fullmatch(r"[1-9]\d*,[1-9]\d*", args.teacher):
    raise ValueError(f"--teacher={args.teacher}: expected two positive whole numbers (height, width) such as 8,8.")
  height, width = map(int, args.teacher.split(","))
  dim = cfg.alignment.teacher_dim if cfg.alignment.weight > 0 else 0
  grids = [(bucket, workload.latent_grid(bucket, WAN)) for bucket in recipe.BUCKETS]
  return [(bucket, grid, record.bytes_of(record.Spec(grid, cfg.model.latent_channels, cfg.model.text_dim, (height, width), dim),
                                         text_tokens=args.text)) for bucket, grid in grids]


def tokens_of(cfg, grid):
  return workload.tokens_of(cfg.model, grid, cfg.data.text_tokens)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    cfg, device, lines = config.from_config_dict(args.config), devices.device_of(args.device_kind), []
    if cfg.data.path or cfg.data.mixture:
      dataset = datasets.open_data(cfg.data)
      datasets.check_encoders(dataset.meta, cfg)
      lines = [*of_data(cfg, dataset, args.show), ""]
      clips = {part.bucket: (part.bucket, part.spec.grid, record.bytes_of(part.spec)) for part in dataset.meta.parts}.values()
    else:
      clips = recipe_clips(cfg, args)
    lines += of_feeding(cfg, device, clips, args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print("\n".join(lines))


if __name__ == "__main__":
  main()
