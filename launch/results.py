"""Makes the tables and the picture of docs/results.md from committed results, and from nothing else:

  python -m launch.results --folder=docs/results --into=docs/results.md --picture=docs/results.png
"""

import argparse
import pathlib
import sys

from launch import arguments
from motif_jax.data import videos
from motif_jax.evaluate import plots, studies

BEGIN, END = "<!-- launch.results writes from here -->", "<!-- to here -->"


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.results", __doc__)
  add = parser.add_argument
  add("--folder", default="docs/results", help="results of launch.experiments")
  add("--into", help="a markdown file, whose text between two marks becomes the tables; without it they are printed")
  add("--picture", help="a PNG of the curves")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = parse(argv)
  try:
    runs = studies.read(args.folder)
    made = studies.tables(runs)
    if args.into:
      path = pathlib.Path(args.into)
      text = replaced(path.read_text(), made, args.into)
      with videos.replacing(path) as temporary:
        temporary.write_text(text)
    else:
      print(made)
    if args.picture:
      plots.draw(args.picture, studies.panels(runs))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


def replaced(text: str, made: str, name: str) -> str:
  """`text` with `made` between the marks."""
  if text.count(BEGIN) != 1 or text.count(END) != 1:
    raise ValueError(f"{name} must have one line {BEGIN} and one line {END}.")
  return text.partition(BEGIN)[0] + f"{BEGIN}\n\n{made}\n\n" + END + text.partition(END)[2]


if __name__ == "__main__":
  main()
