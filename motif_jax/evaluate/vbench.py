"""VBench (arXiv 2311.17982): its prompts, the file names its evaluator looks for, and its scores as the leaderboard adds them.

Facts from github.com/Vchitect/VBench at 45e79ec (March 2026): `prompts/README.md` (how many samples, and their names),
`vbench/__init__.py` (what the evaluator looks for), `scripts/constant.py` and `scripts/cal_final_score.py` (ranges, weights,
total).
"""

from collections.abc import Mapping, Sequence
import importlib.util
import math
import pathlib
from typing import NamedTuple

from motif_jax import outside

SAMPLES = 5  # of a prompt
FLICKER_SAMPLES = 25  # where the evaluator drops videos that move and keeps five of the others
NAME_BYTES = 255  # of a file's name, on the usual file systems
PACKAGE, SUITE = "vbench", "VBench_full_info.json"


class Dimension(NamedTuple):
  """What the evaluator measures; `low` and `high` become 0 and 1 before dimensions are averaged."""

  part: str
  low: float = 0.0
  high: float = 1.0
  weight: float = 1.0


DIMENSIONS = {
    "subject_consistency": Dimension("quality", low=0.1462),
    "background_consistency": Dimension("quality", low=0.2615),
    "temporal_flickering": Dimension("quality", low=0.6293),
    "motion_smoothness": Dimension("quality", low=0.706, high=0.9975),
    "dynamic_degree": Dimension("quality", weight=0.5),
    "aesthetic_quality": Dimension("quality"),
    "imaging_quality": Dimension("quality"),
    "object_class": Dimension("semantic"),
    "multiple_objects": Dimension("semantic"),
    "human_action": Dimension("semantic"),
    "color": Dimension("semantic"),
    "spatial_relationship": Dimension("semantic"),
    "scene": Dimension("semantic", high=0.8222),
    "appearance_style": Dimension("semantic", low=0.0009, high=0.2855),
    "temporal_style": Dimension("semantic", high=0.364),
    "overall_consistency": Dimension("semantic", high=0.364),
}
PARTS = {"quality": 4, "semantic": 1}  # and their weights in the total

# In %: the report's (recipe.md section 7); "quality" follows from the other two.  Its other ten dimensions are not published.
PUBLISHED = {"total": 83.76, "quality": 84.59, "semantic": 80.44, "subject_consistency": 95.38, "background_consistency": 95.74,
             "temporal_flickering": 98.16, "object_class": 92.93, "multiple_objects": 77.29, "spatial_relationship": 83.02}
TOTALS = {"Wan2.1-14B": 83.69, "HunyuanVideo": 83.24, "Step-Video 30B": 81.83}  # of others, as the report quotes them


class Prompt(NamedTuple):
  """A prompt of the suite."""

  name: str  # as the files are called
  text: str  # what the model is given
  dimensions: tuple[str, ...]  # that its videos count for; empty where the suite does not say


class Video(NamedTuple):
  """A video to be made."""

  file: str
  text: str
  number: int  # which with the seed decides its noise; the same whichever part of the suite is made


def installed_suite() -> pathlib.Path:
  """The suite of the installed package, which is found without importing it; ValueError where there is none."""
  spec = importlib.util.find_spec(PACKAGE)
  folders = list(spec.submodule_search_locations or ()) if spec else []
  found = [path for path in (pathlib.Path(folder) / SUITE for folder in folders) if path.exists()]
  if not found:
    raise ValueError(f"There is no installed package {PACKAGE} with its {SUITE}; pass --suite=FILE: that file, from its "
                     "repository, or a text file with a prompt per line.")
  return found[0]


def read_suite(path, rewritten=None) -> list[Prompt]:
  """The prompts of a suite, each once, in its order.

  Args:
    path: JSON as in the package, a list of {"prompt_en", "dimension"}; or text, a prompt per line, which counts for the dimension
      that the file is called after, as in the repository's `prompts_per_dimension`, if it is.
    rewritten: text, a line for each entry of the suite, which the model is given instead; files keep the suite's own prompt.
  """
  path = pathlib.Path(path)
  if path.suffix == ".json":
    entries = [_entry(path, entry) for entry in _list(path)]
  else:
    stem = (path.stem,) if path.stem in DIMENSIONS else ()
    entries = [(line, stem) for line in _lines(path)]
  texts = [name for name, _ in entries] if rewritten is None else _lines(pathlib.Path(rewritten))
  if not entries:
    raise ValueError(f"There is no prompt in {path}.")
  if len(texts) != len(entries):
    raise ValueError(f"{rewritten} has {len(texts)} lines and {path} {len(entries)} prompts; expected a line for each, in order.")
  prompts: dict[str, Prompt] = {}
  for (name, dimensions), text in zip(entries, texts):
    known = prompts.get(name, Prompt(name, text, ()))  # the suite names some prompts twice
    prompts[name] = known._replace(dimensions=tuple(dict.fromkeys(known.dimensions + dimensions)))
  wrong = [name for name in prompts if "/" in name or "\0" in name or len(f"{name}-{FLICKER_SAMPLES}.mp4".encode()) > NAME_BYTES]
  if wrong:
    raise ValueError(f"{len(wrong)} prompts of {path} cannot be names of files, as the evaluator needs: {wrong[0]!r}.")
  return list(prompts.values())


def _list(path):
  said = outside.read_json(path)
  if not isinstance(said, list):
    raise ValueError(f"{path} is not a suite of VBench: expected a list of prompts.")
  return said


def _entry(path, entry):
  try:
    name, dimensions = entry["prompt_en"], tuple(entry["dimension"])
  except (KeyError, TypeError) as e:
    raise ValueError(f'{path}: an entry without "prompt_en" or "dimension": {str(entry)[:80]}.') from e
  if not isinstance(name, str) or (unknown := [d for d in dimensions if d not in DIMENSIONS]):
    raise ValueError(f"{path}: {str(entry)[:80]} has no text, or dimensions that VBench does not have; it has "
                     f"{', '.join(DIMENSIONS)}.")
  return name, dimensions


def _lines(path):
  return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def videos_of(prompts: Sequence[Prompt], dimensions: Sequence[str] = ()) -> list[Video]:
  """The videos that the evaluator looks for, of these dimensions, by default of all."""
  unknown = [d for d in dimensions if not any(d in prompt.dimensions for prompt in prompts)]
  if unknown:
    known = dict.fromkeys(d for prompt in prompts for d in prompt.dimensions)
    raise ValueError(f"The suite has no prompt for {', '.join(unknown)}; it has some for {', '.join(known) or 'no dimension'}.")
  made = []
  for place, prompt in enumerate(prompts):
    wanted = set(prompt.dimensions) & set(dimensions) if dimensions else prompt.dimensions
    if wanted or not dimensions:
      count = FLICKER_SAMPLES if "temporal_flickering" in wanted else SAMPLES
      made += [Video(f"{prompt.name}-{i}.mp4", prompt.text, place * FLICKER_SAMPLES + i) for i in range(count)]
  return made


def read_results(path) -> dict[str, float]:
  """Dimension -> score as the evaluator wrote it, from one of its files or a folder of them; of two, that of the later file."""
  path = pathlib.Path(path)
  files = sorted(path.rglob("*_eval_results.json")) if path.is_dir() else [path]
  scores = {}
  for file in files:  # their names hold the time
    said = outside.read_json(file)
    for name, value in said.items() if isinstance(said, dict) else [(str(file), None)]:
      number = value[0] if isinstance(value, list) and value else None
      if name not in DIMENSIONS or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise ValueError(f"{file} is not what VBench's evaluator writes: {name!r} is {str(value)[:40]}, expected a dimension and "
                         "[score, videos].")
      scores[name] = float(number)
  if not scores:
    raise ValueError(f"There is no *_eval_results.json of VBench's evaluator in {path}.")
  return scores


def normalised(results: Mapping[str, float]) -> dict[str, float]:
  """Dimension -> score with the range of the dimension stretched to [0, 1]."""
  stretched = lambda value, dimension: (value - dimension.low) / (dimension.high - dimension.low)
  return {name: stretched(value, DIMENSIONS[name]) for name, value in results.items()}


def totals(results: Mapping[str, float]) -> dict[str, float]:
  """The scores "quality", "semantic" and "total", each where all of its dimensions are there.

  The official script counts what is missing as 0; such a total would be compared with complete ones.
  """
  scores, made = normalised(results), {}
  for part in PARTS:
    weights = {name: dimension.weight for name, dimension in DIMENSIONS.items() if dimension.part == part}
    if weights.keys() <= scores.keys():
      made[part] = sum(weights[name] * scores[name] for name in weights) / sum(weights.values())
  if made.keys() == PARTS.keys():
    made["total"] = sum(PARTS[part] * made[part] for part in PARTS) / sum(PARTS.values())
  return made


def table(results: Mapping[str, float]) -> str:
  """The scores in %, beside the published ones."""
  scores = normalised(results)
  shown = lambda value: "-" if value is None else f"{value:.2f}"
  percent = lambda values, name: shown(100 * values[name] if name in values else None)
  row = lambda name, *cells: f"{name.replace('_', ' '):24}" + "".join(f"{cell:>12}" for cell in cells)
  lines = [row("%", "ours", "normalised", "published")]
  for part in PARTS:
    lines += [row(name, percent(results, name), percent(scores, name), shown(PUBLISHED.get(name)))
              for name, dimension in DIMENSIONS.items() if dimension.part == part]
    lines.append(row(f"{part} score", "", percent(totals(results), part), shown(PUBLISHED[part])))
  lines.append(row("total score", "", percent(totals(results), "total"), shown(PUBLISHED["total"])))
  lines.append(f"published totals of others: {', '.join(f'{name} {value}' for name, value in TOTALS.items())}")
  if missing := [name for name in DIMENSIONS if name not in results]:
    lines.append(f"no result yet: {', '.join(missing)}")
  return "\n".join(lines)
