"""Encodes a folder of captioned videos into a data set:

  python -m launch.encode --source=FOLDER --output=DIR --config=configs/smoke.py [--buckets=33x144x256,1x144x256]

FOLDER holds videos or images and captions.jsonl, a line per clip: {"file": "a.mp4", "long": "...", "short": "..."}, and
optionally "start" in seconds. Encoders are the config's: --config.encoders.codec=NAME takes another. Interrupted? Run it again:
it goes on where it stopped. What was skipped, and why, stands in DIR/report.json.
"""

import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from launch import arguments
from motif_jax import config as config_lib, mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import videos
from motif_jax.data.encode import encode
from motif_jax.data.extract import Encoders
from motif_jax.encoders import registry

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "A file in configs/; names the encoders.")
flags.DEFINE_string("source", None, "Folder of videos and captions.jsonl.")
flags.DEFINE_string("output", None, "Folder of the data set.")
flags.DEFINE_string("buckets", "", "FRAMESxHEIGHTxWIDTH, comma-separated; each clip goes into the largest it fills. "
                    "Default: the config's sample.bucket.")
flags.DEFINE_float("fps", videos.FPS, "Faster videos are thinned to this many frames a second.")
flags.DEFINE_integer("batch_size", 16, "Clips encoded at once.", lower_bound=1)
flags.DEFINE_integer("clips_per_shard", 256, "Clips per file; an interrupted run loses at most one file's work.", lower_bound=1)
flags.DEFINE_integer("readers", 4, "Threads that decode videos.", lower_bound=1)


def main(argv) -> None:
  try:
    arguments.check_no_others(argv)
    cfg = config_lib.from_config_dict(FLAGS.config)
    buckets = buckets_lib.parse(FLAGS.buckets or buckets_lib.name(cfg.sample.bucket))
    mesh = meshes.make_mesh(cfg.mesh) if jax.device_count() > 1 else meshes.make_mesh(MeshConfig(1, 1, 1))
    with jax.set_mesh(mesh):
      report = encode(FLAGS.source, FLAGS.output, buckets, Encoders(*registry.named(cfg.encoders, mesh=mesh)), jit=jax.jit,
                      fps=FLAGS.fps, batch_size=FLAGS.batch_size, clips_per_shard=FLAGS.clips_per_shard, readers=FLAGS.readers)
  except ValueError as e:
    sys.exit(f"error: {e}")
  print(report.table())
  print(f"data set: {FLAGS.output}")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "source", "output"])
  app.run(main, flags_parser=arguments.parse)
