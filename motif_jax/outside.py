"""JSON from outside: as large as such files are, and no larger; nested as deep as they are, and no deeper.

What comes from outside is safetensors (`weights/header.py`), JSON, and clips; nothing that is read runs code (no pickle).
"""

import json
import os
import pathlib
from typing import Any

LARGEST = 20_000_000  # bytes; the index of the largest published models has 5 million


def read_json(path: str | os.PathLike) -> Any:
  """What a JSON file says; ValueError in one line that names the file where it is too large, too deep, or no JSON."""
  path = pathlib.Path(path)
  with open(path, "rb") as file:
    content = file.read(LARGEST + 1)
  if len(content) > LARGEST:
    raise ValueError(f"{path.name} has more than {LARGEST:,} bytes, expected a JSON file of fewer.")
  try:
    return parsed(content)
  except ValueError as e:
    raise ValueError(f"{path.name} is no JSON: {e}") from e


def parsed(content: str | bytes) -> Any:
  """What JSON says; ValueError where it is none, names a key twice, or is nested too deep to read."""
  try:
    return json.loads(content, object_pairs_hook=_unique)
  except RecursionError as e:
    raise ValueError("it is nested too deep.") from e


def _unique(pairs):
  made = dict(pairs)
  if len(made) < len(pairs):  # readers differ in which one they take
    twice = sorted({key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1})[:3]
    raise ValueError(f"keys stand twice: {', '.join(twice)}.")
  return made
