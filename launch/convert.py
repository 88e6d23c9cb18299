"""Released weights to a checkpoint of ours, and a checkpoint of ours to a folder that diffusers opens:

  python -m launch.convert --source=FOLDER --output=WORKDIR --config=configs/motif_2b.py
  python -m launch.convert --source=WORKDIR --output=FOLDER [--raw] [--layout=legacy] [--dtype=bfloat16]

The checkpoint holds the weights in the dtypes of the files, and the config with the model that the folder has: launch.sample
reads it, and launch.train --workdir=WORKDIR starts from it with a new optimizer, and deletes it after train.keep checkpoints of
its own.  Its encoders are the config's; name those that the weights were trained with.  What comes in goes out bit for bit, with
--like=FOLDER in the layout and dtypes of a given folder.
"""

import resource
import sys
import time

from absl import app, flags
import jax
from ml_collections import config_flags

from launch import arguments
from motif_jax import config
from motif_jax.train import conversion
from motif_jax.weights import names

CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/motif_2b.py", "All that is not the model, of a checkpoint to be made; --config.a.b=value changes one key.")
SOURCE = flags.DEFINE_string("source", None, "A diffusers folder (of the transformer or of a pipeline), or a checkpoint of ours.")
OUTPUT = flags.DEFINE_string("output", None, "A new work directory, or a new folder.")
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16", "float16"], "Of all weights; default: each keeps its own.")
ROPE_THETA = flags.DEFINE_float("rope_theta", None, "Stands in for config.json's, which no tensor shows.")
RAW = flags.DEFINE_bool("raw", False, "Export the weights that the optimizer moves and not their moving average.")
LAYOUT = flags.DEFINE_enum("layout", None, names.LAYOUTS, "Of the export; default: diffusers where that is exact, else legacy.")
LIKE = flags.DEFINE_string("like", None, "A folder whose layout and dtypes the export takes over, tensor by tensor.")
CALIBRATE = flags.DEFINE_bool("calibrate", False, "Fold a biased query LayerNorm into the diffusers layout, with an error.")
FILE_GB = flags.DEFINE_float("file_gb", 5.0, "A file of the export holds at most this many GB.", lower_bound=1e-6)


def main(argv: list[str]) -> None:
  arguments.quiet()
  jax.config.update("jax_platforms", "cpu")  # the host holds the weights, whole
  began = time.perf_counter()
  try:
    arguments.check_no_others(argv)
    if conversion.is_ours(SOURCE.value):
      said = conversion.to_folder(SOURCE.value, OUTPUT.value, raw=RAW.value, layout=LAYOUT.value, dtype=DTYPE.value,
                                  like=LIKE.value, calibrate=CALIBRATE.value, file_gb=FILE_GB.value)
    else:
      given = [f"--{flag.name}" for flag in (RAW, LAYOUT, LIKE, CALIBRATE) if flag.present]
      if given:
        raise ValueError(f"{SOURCE.value} is no checkpoint of ours, and only exports of one take {', '.join(given)}.")
      said = conversion.to_checkpoint(SOURCE.value, OUTPUT.value, config.from_config_dict(CONFIG.value), dtype=DTYPE.value,
                                      rope_theta=ROPE_THETA.value)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
  print(*said, f"{time.perf_counter() - began:.0f} s, at most {peak / 1e9:.3g} GB of host memory", sep="\n")


if __name__ == "__main__":
  flags.mark_flags_as_required(["source", "output"])
  app.run(main, flags_parser=arguments.parse)
