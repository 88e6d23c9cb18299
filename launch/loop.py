"""A looping picture of what launch.sample made, each clip over its prompt, to show in a README:

  python -m launch.loop --samples=DIR --output=docs/samples.webp
"""

import argparse
import json
import pathlib
import sys

from launch import arguments
from motif_jax.config import BucketConfig
from motif_jax.data import videos


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.loop", __doc__)
  add = parser.add_argument
  add("--samples", required=True, help="a folder that launch.sample wrote")
  add("--output", required=True, help="an animated WebP")
  add("--columns", type=int, default=4)
  add("--width", type=int, default=160, help="pixels of a clip; smaller ones are enlarged up to it, a whole number of times")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = parse(argv)
  try:
    if args.columns < 1 or args.width < 1 or not args.output.endswith(".webp"):
      raise ValueError(f"--columns={args.columns} --width={args.width} --output={args.output}: expected at least one column and "
                       "pixel, and a file that ends in .webp.")
    folder = pathlib.Path(args.samples)
    said = read(folder / "samples.json")
    clips = [clip(folder / sample["file"]) for sample in said["samples"]]
    videos.write_loop(args.output, clips, fps=said["fps"], titles=[sample["prompt"] for sample in said["samples"]],
                      columns=args.columns, width=args.width)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(f"{args.output}: {len(clips)} clips, {pathlib.Path(args.output).stat().st_size / 1000:.0f} kB")


def read(path: pathlib.Path) -> dict:
  """What launch.sample says of a folder that it has finished."""
  try:
    said = json.loads(path.read_text())
    said["fps"], [(sample["file"], sample["prompt"]) for sample in said["samples"]]
  except FileNotFoundError as e:
    raise ValueError(f"there is no {path}; is {path.parent} a folder that launch.sample wrote to its end?") from e
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(f"{path} is not what launch.sample writes.") from e
  return said


def clip(path: pathlib.Path):
  """All frames of a file, uint8 (F, H, W, 3)."""
  found = videos.probe(path)
  return videos.read_clip(path, BucketConfig(found.frames, found.height, found.width))


if __name__ == "__main__":
  main()
