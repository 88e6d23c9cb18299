"""Encodes captioned videos into a data set of latents and features:

  python -m launch.encode --source=FOLDER --output=DIR --config=configs/smoke.py [--buckets=33x144x256,1x144x256]

FOLDER holds videos or images and captions.jsonl, a line per clip: {"file": "a.mp4", "long": "...", "short": "..."}, with "tags",
and "start" and "end" in seconds, where they are known; or captions.csv, captions.parquet, a.txt or a.json beside a.mp4, or
WebDataset shards, *.tar, of such pairs (`data/captions.py`). Encoders are the config's: --config.encoders.codec=NAME takes
another. Stopped, or killed? Run it again: it goes on where it was. What was skipped, and why, stands in DIR/report.json;
`launch.verify` checks the result.

--dry_run encodes nothing: it tells clips, hours, tokens and disk of each bucket, and what will be skipped; --inventory=FILE
writes that as JSON, and --decode=N measures what a core probes and decodes, on N clips of each bucket.

Batches are spread over all devices of the machine. For many machines, start --shard=0/8 to --shard=7/8 as jobs of their own on
one shared folder; whichever writes the last shard finishes the data set. Or let a Ray cluster do it: --ray=auto --actors=8
(pip install -r requirements-ray.txt); each actor has a device of its own, and one that dies is started again.
"""

import argparse
import functools
import json
import pathlib
import signal
import sys
from collections.abc import Callable

from launch import arguments
from motif_jax import config as config_lib, encoding
from motif_jax.config import BucketConfig, Config
from motif_jax.data import buckets as buckets_lib, captions, encode, inventory, moments, videos
from motif_jax.data.extract import Encoders
from motif_jax.data.inventory import Inventory
from motif_jax.data.progress import Clock
from motif_jax.data.survey import Survey, survey
from motif_jax.encoding import Setting


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.encode", __doc__)
  add, count = parser.add_argument, arguments.at_least(1)
  arguments.add_config(parser, about="a file in configs/, which names the encoders")
  add("--source", required=True, help="folder of videos and captions.jsonl")
  add("--output", help="folder of the data set")
  add("--buckets", help="instead of the config's data.buckets: FRAMESxHEIGHTxWIDTH or FRAMESx144p, 360p, 480p, 720p, "
      "comma-separated; each clip goes into the largest it fills")
  add("--moments", choices=moments.POLICIES, default="first", help="what a clip shows of its video: the beginning, the middle, "
      "all of it in few frames, or cut: as many clips as it holds")
  add("--columns", help="names in tables of captions that differ from ours, OURS:THEIRS, such as file:path,long:text")
  add("--dry_run", action="store_true", help="encode nothing, tell what would be")
  add("--inventory", help="the file for the result of --dry_run as JSON")
  add("--decode", type=arguments.at_least(0), default=0, help="with --dry_run: clips of each bucket to decode, for measuring")
  add("--fps", type=arguments.at_least(1e-3, float), default=videos.FPS, help="faster videos are thinned to this many frames a "
      "second")
  add("--batch_size", type=count, default=16, help="clips that a device encodes at once, at most")
  add("--batch_pixels", type=arguments.at_least(0, float), default=128.0, help="million pixels that a device encodes at once: in "
      "large buckets, fewer clips")
  add("--clips_per_shard", type=count, default=encode.CLIPS_PER_SHARD, help="clips per file, at most; fewer where they are "
      "large: a job that is stopped loses at most one file's work")
  add("--readers", type=count, default=4, help="processes that decode videos")
  add("--limit", type=arguments.at_least(1, float), default=300.0, help="seconds that decoding a clip may take, twice; then it "
      "is skipped")
  add("--ray", help="address of a Ray cluster that does the work, such as auto; local: one on this machine")
  add("--actors", type=count, default=1, help="with --ray: its actors, with one device and --readers processes each")
  add("--shard", default="0/1", help="I/N: this is job I of N, from 0 on, which takes every Nth file")
  return arguments.parse(parser, argv)


def main(argv=None) -> None:
  args = parse(argv)
  clock = Clock()
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Control-C
  try:
    job, cfg = job_of(args.shard), config_lib.from_config_dict(args.config)
    setting = Setting(cfg, args.source, args.output, args.batch_size, args.batch_pixels * 1e6, args.readers, args.limit)
    if args.dry_run:
      return print(look(setting, args).table())
    if not args.output:
      raise ValueError("--output is missing, the folder of the data set; or write --dry_run.")
    encoders, write = setting.encoders(), functools.partial(writer_of(args), setting, clock=clock)
    report = encode.encode(args.source, find(cfg, encoders, clock, args), args.output, encoders, write, job=job,
                           clips_per_shard=args.clips_per_shard)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  except KeyboardInterrupt:
    sys.exit("interrupted: finished files are kept; run the same command again to go on.")
  finally:
    signal.signal(signal.SIGTERM, before)
  print(clock.table())
  if report:
    print(report.table())
    print(f"data set: {args.output}")


def job_of(text: str) -> tuple[int, int]:
  """(i, n) of "i/n"."""
  index, _, count = text.partition("/")
  if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise ValueError(f"--shard={text} is not I/N with I from 0 to N - 1, such as 0/8.")
  return int(index), int(count)


def writer_of(args: argparse.Namespace) -> Callable:
  """What writes shards: this process, or actors on Ray."""
  if not args.ray:
    return encoding.write
  try:
    from motif_jax import encoding_ray  # an extra, see requirements-ray.txt
  except ImportError as e:
    raise ValueError(f"--ray={args.ray} needs Ray, which is not installed here ({e}): pip install -r requirements-ray.txt") from e
  return functools.partial(encoding_ray.write, address=args.ray, actors=args.actors)


def find(cfg: Config, encoders: Encoders, clock: Clock, args: argparse.Namespace) -> Survey:
  """The clips in --source, each in one of --buckets."""
  for bucket in (buckets := buckets_of(cfg, args.buckets)):
    encoders.spec(bucket)  # its error names the sizes that the codec takes
  with clock.phase("probe"):
    found = survey(args.source, buckets, fps=args.fps, readers=args.readers, limit=args.limit, policy=args.moments,
                   columns=columns_of(args.columns))
  clock.add("probe", 0, sum(map(len, found.clips.values())))
  return found


def buckets_of(cfg: Config, named: str | None) -> tuple[BucketConfig, ...]:
  """The buckets that --buckets names, or else the config."""
  return buckets_lib.parse(named or ",".join(cfg.data.buckets) or buckets_lib.name(cfg.sample.bucket))


def columns_of(text: str | None) -> dict[str, str]:
  """Our name -> theirs, of "ours:theirs,ours:theirs"."""
  columns = dict(pair.partition(":")[::2] for pair in text.split(",")) if text else {}
  if wrong := [f"{ours}:{theirs}" for ours, theirs in columns.items() if ours not in captions.FIELDS or not theirs]:
    raise ValueError(f"--columns={','.join(wrong)} is not OURS:THEIRS with one of our names {', '.join(captions.FIELDS)}.")
  return columns


def look(setting: Setting, args: argparse.Namespace) -> Inventory:
  """What would be encoded; also in the file --inventory."""
  cfg, encoders, clock = setting.cfg, setting.encoders(), Clock()
  found = find(cfg, encoders, clock, args)
  made = inventory.inventory(found, buckets_of(cfg, args.buckets), spec=encoders.spec, patch=cfg.model.patch,
                             seconds=clock.seconds["probe"])
  if args.decode:
    made = inventory.measured(made, args.source, found, clips=args.decode)
  if args.inventory:
    pathlib.Path(args.inventory).write_text(json.dumps(made.to_dict(), indent=1))
  return made


if __name__ == "__main__":
  main()
