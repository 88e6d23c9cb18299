"""Renders one of the embedded data sets, H.264 clips with captions.jsonl, of one moving shape or of scenes of two things:

  python -m launch.render --output=DIR --count=3000
  python -m launch.render --output=DIR --count=20000 --benchmark=scenes
"""

import argparse
import sys

from launch import arguments
from motif_jax.data import buckets, shapes
from motif_jax.data.embedded import SETS


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.render", __doc__)
  add = parser.add_argument
  add("--output", required=True, help="folder of the clips")
  add("--benchmark", choices=SETS, default="shapes", help="shapes: one in each clip; scenes: two, in a relation")
  add("--count", type=int, default=3000)
  add("--seed", type=int, default=0)
  add("--bucket", default="9x32x32", help="FRAMESxHEIGHTxWIDTH in pixels")
  add("--fps", type=arguments.at_least(1), default=8)
  add("--held_out", action="store_true", help="the attribute combinations that training must not see")
  add("--colour", help=f"of shapes, all clips in a colour that no others have: {', '.join(shapes.NEW_COLOURS)}")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = parse(argv)
  try:
    (bucket,) = buckets.parse(args.bucket)
    if args.count < 1:
      raise ValueError(f"--count={args.count}: expected at least 1 clip.")
    size = (bucket.frames, bucket.height, bucket.width)
    SETS[args.benchmark].write_folder(args.output, args.count, seed=args.seed, bucket=size, fps=args.fps, held_out=args.held_out,
                                      colour=args.colour)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(f"rendered {args.count} clips of {args.bucket} and captions.jsonl to {args.output}")


if __name__ == "__main__":
  main()
