"""Draws curves of runs from their scalars.jsonl, one panel for each name, runs over each other:

  python -m launch.curves --runs=DIR,DIR --names=train/loss,telemetry/update/single,telemetry/residual/* --output=curves.png

A name may be a pattern; what it fits is one panel.  --log=PATTERN,... takes a logarithmic axis where it fits the name of a panel.
"""

import argparse
import fnmatch
import json
import pathlib
import sys

from launch import arguments
from motif_jax.evaluate import plots

FILE = "scalars.jsonl"


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.curves", __doc__)
  add = parser.add_argument
  add("--runs", required=True, help="work directories, with commas; label=DIR gives one another name")
  add("--names", default="train/loss,validation/loss,validation/caption_gain,train/gradient_norm")
  add("--log", default="", help="names, or patterns, whose values get a logarithmic axis")
  add("--chain", action="store_true", help="runs one after another, as stages of a curriculum, and not over each other")
  add("--columns", type=int, default=3)
  add("--output", required=True, help="a PNG")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = parse(argv)
  try:
    runs = {label or path: read(path) for label, path in map(labelled, args.runs.split(","))}
    runs = chained(runs) if args.chain else runs
    panels = [panel(runs, name, log=any(fnmatch.fnmatch(name, p) for p in args.log.split(","))) for name in args.names.split(",")]
    plots.draw(args.output, panels, columns=args.columns)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(args.output)


def labelled(text: str) -> tuple[str, str]:
  """(label, path) of "label=path" or "path"."""
  label, equals, path = text.partition("=")
  return (label, path) if equals else (pathlib.Path(text).name, text)


def read(folder: str) -> dict[str, dict[int, float]]:
  """Name -> step -> value; of a step that was run twice, the later value."""
  path = pathlib.Path(folder) / FILE
  if not path.exists():
    raise ValueError(f"there is no {path}; is {folder} the work directory of a training run?")
  curves: dict[str, dict[int, float]] = {}
  for line in path.read_text().splitlines():
    values = json.loads(line)
    step = values.pop("step")
    for name, value in values.items():
      curves.setdefault(name, {})[step] = value
  return curves


def chained(runs: dict) -> dict:
  """`runs` with the steps of each counted on from the last step of the one before."""
  made, first = {}, 0
  for run, curves in runs.items():
    made[run] = {name: {first + step: value for step, value in curve.items()} for name, curve in curves.items()}
    first += max(step for curve in curves.values() for step in curve)
  return made


def panel(runs: dict, name: str, *, log: bool) -> plots.Panel:
  """The curves of all runs that the pattern `name` fits; ValueError with the known names where there are none."""
  found = {(run, known): curve for run, curves in runs.items() for known, curve in curves.items() if fnmatch.fnmatch(known, name)}
  if not found:
    known = sorted({name for curves in runs.values() for name in curves})
    raise ValueError(f"no curve is called {name}; there are {', '.join(known)}.")
  several = len({known for _, known in found}) > 1
  tail = len(name.partition("*")[0])
  label = lambda run, known: " ".join([run] * (len(runs) > 1 or not several) + [known[tail:]] * several)
  curves = {label(run, known): tuple(zip(*sorted(curve.items()))) for (run, known), curve in found.items()}
  return plots.Panel(title=name, x="step", y="", curves=curves, log_y=log, marker="")


if __name__ == "__main__":
  main()
