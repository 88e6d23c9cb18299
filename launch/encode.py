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

import functools
import json
import pathlib
import signal
import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from launch import arguments
from motif_jax import config as config_lib, encoding
from motif_jax.config import BucketConfig, Config
from motif_jax.data import buckets as buckets_lib, captions, encode, inventory, moments, videos
from motif_jax.data.extract import Encoders
from motif_jax.data.inventory import Inventory
from motif_jax.data.progress import Clock
from motif_jax.data.survey import Survey, survey
from motif_jax.encoding import Setting

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "A file in configs/; names the encoders.")
flags.DEFINE_string("source", None, "Folder of videos and captions.jsonl.")
flags.DEFINE_string("output", None, "Folder of the data set.")
flags.DEFINE_string("buckets", "", "Instead of the config's data.buckets: FRAMESxHEIGHTxWIDTH or FRAMESx144p, 360p, 480p, 720p, "
                    "comma-separated; each clip goes into the largest it fills.")
flags.DEFINE_enum("moments", "first", list(moments.POLICIES), "What a clip shows of its video: the beginning, the middle, all of "
                  "it in few frames, or cut: as many clips as it holds.")
flags.DEFINE_list("columns", [], "Names in tables of captions that differ from ours, OURS:THEIRS, such as file:path,long:text.")
flags.DEFINE_bool("dry_run", False, "Encode nothing, tell what would be.")
flags.DEFINE_string("inventory", None, "The file for the result of --dry_run as JSON.")
flags.DEFINE_integer("decode", 0, "With --dry_run: clips of each bucket to decode, for measuring.", lower_bound=0)
flags.DEFINE_float("fps", videos.FPS, "Faster videos are thinned to this many frames a second.")
flags.DEFINE_integer("batch_size", 16, "Clips that a device encodes at once, at most.", lower_bound=1)
flags.DEFINE_float("batch_pixels", 128, "Million pixels that a device encodes at once: in large buckets, fewer clips.",
                   lower_bound=0)
flags.DEFINE_integer("clips_per_shard", encode.CLIPS_PER_SHARD, "Clips per file, at most; fewer where they are large. A job that "
                     "is stopped loses at most one file's work.", lower_bound=1)
flags.DEFINE_integer("readers", 4, "Processes that decode videos.", lower_bound=1)
flags.DEFINE_float("limit", 300, "Seconds that decoding a clip may take, twice; then it is skipped.", lower_bound=1)
flags.DEFINE_string("ray", "", "Address of a Ray cluster that does the work, such as auto; local: one on this machine.")
flags.DEFINE_integer("actors", 1, "With --ray: its actors, with one device and --readers processes each.", lower_bound=1)
flags.DEFINE_string("shard", "0/1", "I/N: this is job I of N, from 0 on, which takes every Nth file.")


def main(argv) -> None:
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Control-C
  clock = Clock()
  try:
    arguments.check_no_others(argv)
    job, cfg = job_of(FLAGS.shard), config_lib.from_config_dict(FLAGS.config)
    setting = Setting(cfg, FLAGS.source, FLAGS.output, FLAGS.batch_size, FLAGS.batch_pixels * 1e6, FLAGS.readers, FLAGS.limit)
    if FLAGS.dry_run:
      return print(look(setting).table())
    if not FLAGS.output:
      raise ValueError("--output is missing, the folder of the data set; or write --dry_run.")
    encoders, write = setting.encoders(), functools.partial(writer_of(FLAGS.ray), setting, clock=clock)
    report = encode.encode(FLAGS.source, find(cfg, encoders, clock), FLAGS.output, encoders, write, job=job,
                           clips_per_shard=FLAGS.clips_per_shard)
  except ValueError as e:
    sys.exit(f"error: {e}")
  except KeyboardInterrupt:
    sys.exit("interrupted: finished files are kept; run the same command again to go on.")
  print(clock.table())
  if report:
    print(report.table())
    print(f"data set: {FLAGS.output}")


def job_of(text: str) -> tuple[int, int]:
  """(i, n) of "i/n"."""
  index, _, count = text.partition("/")
  if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise ValueError(f"--shard={text} is not I/N with I from 0 to N - 1, such as 0/8.")
  return int(index), int(count)


def writer_of(address: str) -> Callable:
  """What writes shards: this process, or actors on Ray."""
  if not address:
    return encoding.write
  try:
    from motif_jax import encoding_ray  # an extra, see requirements-ray.txt
  except ImportError as e:
    raise ValueError(f"--ray={address} needs Ray, which is not installed here ({e}): pip install -r requirements-ray.txt.") from e
  return functools.partial(encoding_ray.write, address=address, actors=FLAGS.actors)


def find(cfg: Config, encoders: Encoders, clock: Clock) -> Survey:
  """The clips in --source, each in one of --buckets."""
  for bucket in (buckets := buckets_of(cfg)):
    encoders.spec(bucket)  # its error names the sizes that the codec takes
  with clock.phase("probe"):
    found = survey(FLAGS.source, buckets, fps=FLAGS.fps, readers=FLAGS.readers, limit=FLAGS.limit, policy=FLAGS.moments,
                   columns=columns_of(FLAGS.columns))
  clock.add("probe", 0, sum(map(len, found.clips.values())))
  return found


def buckets_of(cfg: Config) -> tuple[BucketConfig, ...]:
  """The buckets that the flags name, or else the config."""
  return buckets_lib.parse(FLAGS.buckets or ",".join(cfg.data.buckets) or buckets_lib.name(cfg.sample.bucket))


def columns_of(pairs: list[str]) -> dict[str, str]:
  """Our name -> theirs, of ["ours:theirs"]."""
  columns = dict(pair.partition(":")[::2] for pair in pairs)
  if wrong := [f"{ours}:{theirs}" for ours, theirs in columns.items() if ours not in captions.FIELDS or not theirs]:
    raise ValueError(f"--columns={','.join(wrong)} is not OURS:THEIRS with one of our names {', '.join(captions.FIELDS)}.")
  return columns


def look(setting: Setting) -> Inventory:
  """What would be encoded; also in the file --inventory."""
  cfg, encoders, clock = setting.cfg, setting.encoders(), Clock()
  found = find(cfg, encoders, clock)
  made = inventory.inventory(found, buckets_of(cfg), spec=encoders.spec, patch=cfg.model.patch, seconds=clock.seconds["probe"])
  if FLAGS.decode:
    made = inventory.measured(made, FLAGS.source, found, clips=FLAGS.decode)
  if FLAGS.inventory:
    pathlib.Path(FLAGS.inventory).write_text(json.dumps(made.to_dict(), indent=1))
  return made


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "source"])
  app.run(main, flags_parser=arguments.parse)
