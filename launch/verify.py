"""Checks a data set that `launch.encode` made, and shows some of it:

  python -m launch.verify --data=DIR --config=configs/smoke.py [--source=FOLDER] [--pictures=DIR]

Every record is read and compared with the checksum of the bytes that were written; counts, keys and shapes are checked. Then of
each bucket some records are decoded by the codec into PICTURES/verify-BUCKET.png, a row each under its caption; with --source,
the frames that they were made from stand above, and how far apart the two are is printed. The exit code is 1 where anything is
wrong.
"""

import dataclasses
import pathlib
import sys

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from launch import arguments
from motif_jax import config as config_lib, sample
from motif_jax.data import buckets as buckets_lib, clip as clips, dataset, verify, videos
from motif_jax.data.source import read_source
from motif_jax.encoders import registry

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "A file in configs/; names the encoders that made the data set.")
flags.DEFINE_string("data", None, "Folder of the data set.")
flags.DEFINE_string("source", "", "Folder that it was made from, to show the frames beside what the latents hold of them.")
flags.DEFINE_string("pictures", "", "Folder for the pictures. Default: the data set's.")
flags.DEFINE_integer("count", 4, "Records of each bucket to decode; 0: none.", lower_bound=0)
flags.DEFINE_integer("readers", 4, "Processes that read.", lower_bound=1)


def main(argv) -> None:
  arguments.quiet()
  try:
    arguments.check_no_others(argv)
    checked = verify.check(FLAGS.data, readers=FLAGS.readers)
    print(f"{checked.records} records, {checked.bytes / 1e9:.3g} GB, {len(checked.faults)} faults", *checked.faults, sep="\n")
    if FLAGS.count and not checked.faults:
      show(config_lib.from_config_dict(FLAGS.config))
  except ValueError as e:
    sys.exit(f"error: {e}")
  sys.exit(1 if checked.faults else 0)


def show(cfg) -> None:
  """Writes the pictures and prints what they are of."""
  codec, = registry.named(cfg.encoders, ("codec",))
  made = dataset.open_dataset(FLAGS.data).meta.codec
  if made["name"] != codec.name or not dataset.same_version(made["version"], codec.version):
    raise ValueError(f"the data set was made by codec {made['name']} version {made['version']}, the config names {codec.name} "
                     f"version {codec.version}; set encoders.codec, and encoders.weights.codec, to decode it.")
  found = {clip.key: clip for clip in read_source(FLAGS.source, fps=videos.FPS)[0]} if FLAGS.source else {}
  for part, records in verify.samples(FLAGS.data, FLAGS.count):
    rows, titles = [], []
    for record in records:
      decoded = np.asarray(sample.decode(codec, record["latents"][None].astype(np.float32)))[0]
      frames = source_frames(found, record, part.bucket)
      said = f"{record['key']}: {record['caption_long']}"
      if frames is not None:
        said = f"{psnr(frames, decoded):.1f} dB  {said}"
        rows.append(frames)
        titles.append(said)
      rows.append(decoded)
      titles.append("" if frames is not None else said)
      print(said)
    file = pathlib.Path(FLAGS.pictures or FLAGS.data) / f"verify-{buckets_lib.name(part.bucket)}.png"
    videos.write_contact_sheet(file, rows, titles=titles, columns=min(8, part.bucket.frames))
    print(f"pictures: {file}")


def source_frames(found: dict, record: dict, bucket) -> np.ndarray | None:
  """The frames that a record was made from, uint8 (F, H, W, 3); None where they are not there any more."""
  clip = found.get(record["key"].rsplit("#", 1)[0])  # "#2": the third moment of one captioned clip
  if clip is None:
    return None
  try:
    return clips.read(FLAGS.source, dataclasses.replace(clip, start=record["start"], fps=record["fps"]), bucket)
  except videos.UnreadableVideo as e:
    print(f"  its source: {e}")
    return None


def psnr(first: np.ndarray, second: np.ndarray) -> float:
  """Peak signal-to-noise ratio in decibels of two uint8 arrays."""
  error = np.mean(np.square(first.astype(np.float32) - second.astype(np.float32)))
  return float(10 * np.log10(255**2 / max(error, 1e-9)))


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "data"])
  app.run(main, flags_parser=arguments.parse)
