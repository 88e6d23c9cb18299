"""Checks a data set that `launch.encode` made, and shows some of it:

  python -m launch.verify --data=DIR --config=configs/smoke.py [--source=FOLDER] [--pictures=DIR]

Every record is read and compared with the checksum of the bytes that were written; counts, keys and shapes are checked. Then of
each bucket some records are decoded by the codec into PICTURES/verify-BUCKET.png, a row each under its caption; with --source,
the frames that they were made from stand above, and how far apart the two are is printed. The exit code is 1 where anything is
wrong.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

from launch import arguments
from motif_jax import config as config_lib, sample
from motif_jax.data import buckets as buckets_lib, clip as clips, dataset, verify, videos
from motif_jax.data.source import read_source
from motif_jax.encoders import registry


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.verify", __doc__)
  add = parser.add_argument
  arguments.add_config(parser, about="a file in configs/, which names the encoders that made the data set")
  add("--data", required=True, help="folder of the data set")
  add("--source", help="folder that it was made from, to show the frames beside what the latents hold of them")
  add("--pictures", help="folder for the pictures, by default the data set's")
  add("--count", type=arguments.at_least(0), default=4, help="records of each bucket to decode; 0: none")
  add("--readers", type=arguments.at_least(1), default=4, help="processes that read")
  return arguments.parse(parser, argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    checked = verify.check(args.data, readers=args.readers)
    print(f"{checked.records} records, {checked.bytes / 1e9:.3g} GB, {len(checked.faults)} faults", *checked.faults, sep="\n")
    if args.count and not checked.faults:
      show(config_lib.from_config_dict(args.config), args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  sys.exit(1 if checked.faults else 0)


def show(cfg, args: argparse.Namespace) -> None:
  """Writes the pictures and prints what they are of."""
  codec, = registry.named(cfg.encoders, ("codec",))
  made = dataset.open_dataset(args.data).meta.codec
  if made["name"] != codec.name or not dataset.same_version(made["version"], codec.version):
    raise ValueError(f"the data set was made by codec {made['name']} version {made['version']}, the config names {codec.name} "
                     f"version {codec.version}; set encoders.codec, and encoders.weights.codec, to decode it.")
  found = {clip.key: clip for clip in read_source(args.source, fps=videos.FPS)[0]} if args.source else {}
  for part, records in verify.samples(args.data, args.count):
    rows, titles = [], []
    for record in records:
      decoded = np.asarray(sample.decode(codec, record["latents"][None].astype(np.float32)))[0]
      frames = source_frames(args.source, found, record, part.bucket)
      said = f"{record['key']}: {record['caption_long']}"
      if frames is not None:
        said = f"{psnr(frames, decoded):.1f} dB  {said}"
        rows.append(frames)
        titles.append(said)
      rows.append(decoded)
      titles.append("" if frames is not None else said)
      print(said)
    file = pathlib.Path(args.pictures or args.data) / f"verify-{buckets_lib.name(part.bucket)}.png"
    videos.write_contact_sheet(file, rows, titles=titles, columns=min(8, part.bucket.frames))
    print(f"pictures: {file}")


def source_frames(source: str, found: dict, record: dict, bucket) -> np.ndarray | None:
  """The frames that a record was made from, uint8 (F, H, W, 3); None where they are not there any more."""
  clip = found.get(record["key"].rsplit("#", 1)[0])  # "#2": the third moment of one captioned clip
  if clip is None:
    return None
  try:
    return clips.read(source, dataclasses.replace(clip, start=record["start"], fps=record["fps"]), bucket)
  except videos.UnreadableVideo as e:
    print(f"  its source: {e}")
    return None


def psnr(first: np.ndarray, second: np.ndarray) -> float:
  """Peak signal-to-noise ratio in decibels of two uint8 arrays."""
  error = np.mean(np.square(first.astype(np.float32) - second.astype(np.float32)))
  return float(10 * np.log10(255**2 / max(error, 1e-9)))


if __name__ == "__main__":
  main()
