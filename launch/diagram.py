"""The architecture of a config as a picture, in SVG, made from the plan of its first training step:

  python -m launch.diagram --config=configs/motif_2b.py --config.route.keep=0.5 --config.alignment.weight=0.5 \\
    --output=docs/architecture.svg

What is off in the config is not drawn; in the release routing and alignment are, until a stage of the recipe turns them on.
"""

import argparse
import pathlib
import sys

import jax

from launch import arguments
from motif_jax import config, diagram
from motif_jax.bench import sizes
from motif_jax.data import videos
from motif_jax.encoders import registry



def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.diagram", __doc__)
  arguments.add_config(parser)
  parser.add_argument("--output", required=True, help="the SVG file to write")
  return arguments.parse(parser, argv)


def main(argv=None) -> None:
  args = parse(argv)
  jax.config.update("jax_platforms", "cpu")
  try:
    cfg = config.from_config_dict(args.config)
    picture = diagram.svg(cfg, registry.own_strides(cfg) or sizes.STRIDES)
    with videos.replacing(pathlib.Path(args.output)) as temporary:
      temporary.write_text(picture)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(args.output)


if __name__ == "__main__":
  main()
