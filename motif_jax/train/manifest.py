"""The manifest of a checkpoint: the size and the SHA-256 of every file, in a file that is written last.

It is made in the temporary folder, when all processes have written and before the folder gets its name: a finished checkpoint
has one, unless it is older than manifests are.  Two files at the top say when the folder was finished and are not in it.
"""

import hashlib
import json
import os
import pathlib

from motif_jax import outside

FILE = "manifest.json"
FORMAT = 2  # of a checkpoint's folder; 1 had neither manifest nor `about`
LATER = (FILE, "_CHECKPOINT_METADATA", "commit_success.txt")  # written or changed when the manifest is there already


def write(folder: pathlib.Path) -> None:
  """Puts the manifest of `folder` into it, and all of it on the disk."""
  files = {}
  for path in _files(folder):
    with open(path, "rb") as file:
      files[path.relative_to(folder).as_posix()] = [os.fstat(file.fileno()).st_size, _digest(file)]
      os.fsync(file.fileno())
  with open(folder / FILE, "w", encoding="utf-8") as file:
    json.dump({"format": FORMAT, "files": files}, file, indent=1)
    file.flush()
    os.fsync(file.fileno())


def faults(folder: pathlib.Path, *, full: bool = False, part: tuple[int, int] = (0, 1)) -> list[str]:
  """What is wrong with a finished checkpoint, a line for each file: lacking, of another size, or, with `full`, other bytes.

  ValueError where nothing is, but a later version of this program wrote it.

  Args:
    part: (i, n) looks at the i-th of n parts of the files, so that n processes share the reading.
  """
  try:
    handlers = outside.read_json(folder / "_CHECKPOINT_METADATA")["item_handlers"]
    lacking = [f"{name}/ is lacking" for name in sorted(handlers) if not (folder / name).is_dir()]
    if not (folder / FILE).exists():
      return lacking + ([f"{FILE} is lacking"] if "about" in handlers else [])  # else it is of format 1
    said = outside.read_json(folder / FILE)
    found, wanted = said["format"], sorted(said["files"].items())[part[0]::part[1]]
    wrong = [fault for name, (size, digest) in wanted if (fault := _fault(folder / name, name, size, full and digest))]
  except FileNotFoundError as e:
    return [f"{pathlib.Path(e.filename).name} is lacking"]
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    return [f"its metadata or {FILE} cannot be read ({e!r})"]
  if found > FORMAT:
    raise ValueError(f"{folder} has format {found}, and this program knows {FORMAT} and older; use the version that wrote it.")
  return lacking + wrong


def is_there(folder: pathlib.Path) -> bool:
  """Whether the files of `folder` can be checked at all."""
  return (folder / FILE).exists()


def size(folder: pathlib.Path) -> tuple[int, int]:
  """(files, bytes) in the folder of a checkpoint."""
  files = _files(folder)
  return len(files), sum(path.stat().st_size for path in files)


def _files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() not in LATER)


def _fault(path, name, size, digest):
  if not path.is_file():
    return f"{name} is lacking"
  if (found := path.stat().st_size) != size:
    return f"{name} has {found:,} bytes instead of {size:,}"
  if digest:
    with open(path, "rb") as file:
      return "" if _digest(file) == digest else f"{name} has other bytes than were written"
  return ""


def _digest(file):
  return hashlib.file_digest(file, "sha256").hexdigest()
