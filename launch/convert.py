"""Released weights to a checkpoint of ours, and a checkpoint of ours to a folder that diffusers opens:

  python -m launch.convert --source=FOLDER --output=WORKDIR --config=configs/motif_2b.py
  python -m launch.convert --source=WORKDIR --output=FOLDER [--raw] [--layout=legacy] [--dtype=bfloat16]

The checkpoint holds the weights in the dtypes of the files, and the config with the model that the folder has: launch.sample
reads it, and launch.train --workdir=WORKDIR starts from it with a new optimizer, and deletes it after train.keep checkpoints of
its own.  Its encoders are the config's; name those that the weights were trained with.  What comes in goes out bit for bit, with
--like=FOLDER in the layout and dtypes of a given folder.
"""

import argparse
import resource
import sys
import time

import jax

from launch import arguments
from motif_jax import config
from motif_jax.train import conversion
from motif_jax.weights import names


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.convert", __doc__)
  add = parser.add_argument
  arguments.add_config(parser, default="configs/motif_2b.py", about="all that is not the model, of a checkpoint to be made")
  add("--source", required=True, help="a diffusers folder (of the transformer or of a pipeline), or a checkpoint of ours")
  add("--output", required=True, help="a new work directory, or a new folder")
  add("--dtype", choices=("float32", "bfloat16", "float16"), help="of all weights; by default each keeps its own")
  add("--rope_theta", type=float, help="stands in for config.json's, which no tensor shows")
  add("--raw", action="store_true", help="export the weights that the optimizer moves and not their moving average")
  add("--layout", choices=names.LAYOUTS, help="of the export; by default diffusers where that is exact, else legacy")
  add("--like", help="a folder whose layout and dtypes the export takes over, tensor by tensor")
  add("--calibrate", action="store_true", help="fold a biased query LayerNorm into the diffusers layout, with an error")
  add("--file_gb", type=arguments.at_least(1e-6, float), default=5.0, help="a file of the export holds at most this many GB")
  return arguments.parse(parser, argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  jax.config.update("jax_platforms", "cpu")  # the host holds the weights, whole
  began = time.perf_counter()
  try:
    if conversion.is_ours(args.source):
      said = conversion.to_folder(args.source, args.output, raw=args.raw, layout=args.layout, dtype=args.dtype, like=args.like,
                                  calibrate=args.calibrate, file_gb=args.file_gb)
    else:
      given = [f"--{name}" for name in ("raw", "layout", "like", "calibrate") if getattr(args, name)]
      if given:
        raise ValueError(f"{args.source} is no checkpoint of ours, and only exports of one take {', '.join(given)}.")
      said = conversion.to_checkpoint(args.source, args.output, config.from_config_dict(args.config), dtype=args.dtype,
                                      rope_theta=args.rope_theta)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
  print(*said, f"{time.perf_counter() - began:.0f} s, at most {peak / 1e9:.3g} GB of host memory", sep="\n")


if __name__ == "__main__":
  main()
