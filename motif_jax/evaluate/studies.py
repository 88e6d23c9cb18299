"""What the experiments show (docs/results.md), from their results alone: curves, means with errors, differences between arms.

A result is what `launch.experiments` wrote of one run.  Runs of one seed saw the same clips, captions, times and noise in the
same order, so arms are compared seed by seed, and the error is that of the differences.
"""

from collections.abc import Mapping, Sequence
import json
import math
import pathlib

import numpy as np

from motif_jax.evaluate import scenes
from motif_jax.evaluate.plots import Panel

ARMS = ("base", "joint", "single_stream", "routed")
# What each study asks, with its arms: the first is the one that the report would have win.
STUDIES = {
    "Shared Cross-Attention against joint attention only": ("base", "joint"),
    "Three parts against a single stream": ("base", "single_stream"),
    "Routing on against off": ("routed", "base"),
}
TIMES = "times.json"  # beside the results
RECORDED = ("validation/", "judge/", "train/loss")  # beginnings of the names of figures that a result keeps
# Name of a figure -> what tables call it, and the factor that they show it with: shares in percent, to one digit.
SHOWN = {"validation/loss": ("loss", 1), "validation/loss_t40_60": ("loss, 0.4 < t < 0.6", 1),
         "validation/loss_t80_100": ("loss, t > 0.8", 1), "validation/caption_gain": ("caption gain, %", 100)}
SHOWN |= {f"judge/{name}": (f"{name}, %", 100)
          for name in ("colour", "relation", "placed", "binding", "shape", "motion", "background", "all")}
DRAWN = ("validation/loss_t80_100", "validation/loss_t40_60", "validation/caption_gain", "judge/colour", "judge/placed",
         "judge/binding")
MARK = " \\*"  # of differences whose 95 % interval excludes zero
# Student's t, half of a 95 % interval in standard errors, of 2 to 10 seeds; of more it is taken to be as wide as of 10.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def read(folder: str | pathlib.Path) -> dict[str, dict[int, dict]]:
  """Arm -> seed -> result, of all arms in the order of `ARMS`; ValueError where there are none.

  Where `TIMES` lies beside them, results also have step_seconds, the CPU seconds of a mean step of their arm.
  """
  found: dict[str, dict[int, dict]] = {arm: {} for arm in ARMS}
  times = pathlib.Path(folder) / TIMES
  arms = json.loads(times.read_text())["arms"] if times.exists() else {}
  for path in sorted(pathlib.Path(folder).glob("*-*.json")):
    said = _result(path)
    if said["arm"] in arms:
      said["step_seconds"] = step_seconds(arms[said["arm"]])
    found.setdefault(said["arm"], {})[said["seed"]] = said
  if not any(found.values()):
    raise ValueError(f"there is no result in {folder}; launch.experiments leaves them in the folder results of its --output.")
  return {arm: seeds for arm, seeds in found.items() if seeds}


def _result(path):
  """What a file says, its steps as whole numbers."""
  of_steps = lambda values: {int(step): value for step, value in values.items()}
  try:
    said = json.loads(path.read_text())
    said["arm"], said["seed"], said["steps"], said["batch"], said["parameters"]
    return said | dict(flops=of_steps(said["flops"]), curves={name: of_steps(curve) for name, curve in said["curves"].items()})
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"{path} is not a result of launch.experiments.") from e


def curve(result: Mapping, name: str, by: str) -> tuple[np.ndarray, np.ndarray]:
  """(x, values) of a figure over the run, x by "flops" executed, "samples" seen or CPU "seconds" spent so far."""
  values = result["curves"][name]
  of = {"flops": lambda step: result["flops"][step], "samples": lambda step: step * result["batch"],
        "seconds": lambda step: step * result["step_seconds"]}[by]
  x = [of(step) for step in values]
  return np.array(x, float), np.array(list(values.values()), float)


def at(result: Mapping, name: str, by: str, where: float) -> float:
  """The figure at `where`, on the line between the two moments around it; the last one at the end."""
  return float(np.interp(where, *curve(result, name, by)))


def end(result: Mapping, by: str) -> float:
  """How far the run came."""
  return curve(result, "validation/loss", by)[0][-1]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
  """The mean and its standard error; None where there is one value."""
  error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
  return float(np.mean(values)), error


def paired(runs: Mapping, first: str, second: str, name: str, by: str) -> list[float]:
  """By seed that both arms have, the figure of `first` less that of `second`, where the shorter of the two ended."""
  found = []
  for seed in sorted(set(runs[first]) & set(runs[second])):
    a, b = runs[first][seed], runs[second][seed]
    where = min(end(a, by), end(b, by))
    found.append(at(a, name, by, where) - at(b, name, by, where))
  return found


def step_seconds(parts: Sequence[Mapping]) -> float:
  """CPU seconds of a mean step, from the medians of its plans."""
  return sum(part["share"] * float(np.median(part["seconds"])) for part in parts)


def tables(runs: Mapping) -> str:
  """Everything as tables in markdown: the arms, where they ended, and each study's differences."""
  return "\n\n".join([_arms(runs), _ends(runs), *(_study(runs, what, *arms) for what, arms in STUDIES.items()
                                                        if set(arms) <= set(runs))])


def _arms(runs):
  rows = []
  for arm, seeds in runs.items():
    one = next(iter(seeds.values()))
    seconds = one.get("step_seconds")
    cost = ["-", "-"] if seconds is None else [f"{seconds:.3f}", f"{seconds * one['steps']:.0f}"]
    rows.append([arm, f"{one['parameters']:,}", one["steps"], f"{one['steps'] * one['batch']:,}",
                 f"{end(one, 'flops') / 1e12:.2f}", *cost, ", ".join(map(str, sorted(seeds)))])
  return _table(["arm", "parameters", "steps", "samples", "executed TFLOPs", "CPU s a step", "CPU s of all steps", "seeds"], rows)


def _shown(runs):
  """What of `SHOWN` every run has: few held-out clips have none at some times."""
  every = [run["curves"] for seeds in runs.values() for run in seeds.values()]
  return {name: how for name, how in SHOWN.items() if all(name in curves for curves in every)}


def _ends(runs):
  rows = []
  for name, (label, factor) in _shown(runs).items():
    final = {arm: [at(run, name, "flops", math.inf) * factor for run in seeds.values()] for arm, seeds in runs.items()}
    row = [_told(mean_and_error(values), factor) for values in final.values()]
    known = name.removeprefix("judge/")
    chance = f"{scenes.CHANCE[known] * factor:.3g}" if name.startswith("judge/") and known in scenes.CHANCE else ""
    rows.append([label, *row, chance])
  return "Where each arm ended, mean ± standard error over seeds:\n\n" + _table(["", *runs, "chance"], rows)


def _study(runs, what, first, second):
  ways = {"flops": "at equal FLOPs", "samples": "at equal samples"}
  if all("step_seconds" in run for arm in (first, second) for run in runs[arm].values()):
    ways["seconds"] = "at equal CPU time"
  rows = []
  for name, (label, factor) in _shown(runs).items():
    differences = {by: [factor * d for d in paired(runs, first, second, name, by)] for by in ways}
    rows.append([label, *(_difference(values, factor) for values in differences.values())])
  return f"{what}: {first} less {second}, by seed:\n\n" + _table(["", *ways.values()], rows)


def _difference(values, factor):
  mean, error = mean_and_error(values)
  beyond = error is not None and abs(mean) > T95[min(len(values), 10) - 2] * error
  return _told((mean, error), factor, sign="+") + (MARK if beyond else "")


def _told(value, factor, sign=""):
  mean, error = value
  digits = 1 if factor == 100 else 4
  return f"{mean:{sign}.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def _table(heads, rows):
  lines = [heads, ["---"] * len(heads), *rows]
  return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def panels(runs: Mapping, by: str = "flops") -> list[Panel]:
  """The figures of `DRAWN` over what was executed, mean and standard error over seeds, a curve for each arm."""
  drawn = []
  for name in (name for name in DRAWN if name in _shown(runs)):
    label, factor = SHOWN[name]
    curves = {}
    for arm, seeds in runs.items():
      seen = [curve(run, name, by) for run in seeds.values()]
      told = [mean_and_error([values[i] * factor for _, values in seen]) for i in range(min(len(x) for x, _ in seen))]
      x = seen[0][0][:len(told)] / (1e12 if by == "flops" else 1e3)
      curves[arm] = (x, [mean for mean, _ in told], [error or 0 for _, error in told])
    drawn.append(Panel(label, "executed TFLOPs" if by == "flops" else "thousand samples", "", curves))
  return drawn
