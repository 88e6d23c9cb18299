"""What a folder of videos and captions says it holds, videos unopened.

  FOLDER/a/b.mp4            videos at any depth, and images (PNG, JPEG), which are videos of one frame
  FOLDER/c/0000.tar         WebDataset shards of them; the video d.mp4 in it is called c/0000.tar/d.mp4
  FOLDER/captions.jsonl     or .csv, .parquet, and files beside a video: what is said of them, see `captions`

Links to folders are not followed while listing; a table may name what lies behind them.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from motif_jax.data import captions, tars, videos
from motif_jax.data.clip import Clip, Skip

_EXPECTED = ("expected a folder of videos with a captions.jsonl, one line for each video: "
             '{"file": "a.mp4", "long": "a detailed caption", "short": "a brief one"}; or a.txt beside a.mp4, or tars of both.')


class Place(NamedTuple):
  """Where a video lies, and what stands beside it."""

  name: str  # what captions call it
  file: str  # within the folder
  span: tuple[int, int] | None  # of its bytes, in a tar
  beside: dict[str, bytes | pathlib.Path]  # suffix -> what stands beside it, or the file that does


def read_source(folder, *, fps: float, columns: Mapping[str, str] = {}) -> tuple[list[Clip], list[Skip]]:
  """(The clips that the captions of a folder describe, sorted by key; what is described badly, twice, or not at all).
  `columns`: our name of a caption's field -> that of the tables, where they differ.  ValueError where there are no captions."""
  folder, skipped = pathlib.Path(folder), []
  if not folder.is_dir() or not any(folder.iterdir()):
    raise ValueError(f"{folder} {'is empty' if folder.is_dir() else 'does not exist'}; {_EXPECTED}")
  places = {}
  for place in _places(folder, skipped):
    if places.setdefault(place.name, place) is not place:
      skipped.append(Skip(place.name, "duplicate file", f"{place.name} stands in its tar twice; the first was taken."))
  if not captions.tables(folder) and not any(place.beside for place in places.values()):
    raise ValueError(f"{folder} has no captions.jsonl, nor any other captions; {_EXPECTED}")

  clips, named = {}, set()
  for row in _rows(folder, places, columns):
    if isinstance(row, Skip):
      skipped.append(row)
      named.add(row.name)
      continue
    named.add(row.file)
    place, key = places.get(row.file) or Place(row.file, row.file, None, {}), _key(row)
    if fault := _fault(folder / place.file):
      skipped.append(Skip(row.file, "caption without file", f"{row.where} names {row.file}, which {fault}."))
    elif key in clips:
      skipped.append(Skip(key, "duplicate caption", f"{row.where} describes {key} again; the first description was taken."))
    else:
      stat = (folder / place.file).stat()
      clips[key] = Clip(key=key, file=place.file, span=place.span, long=row.long, short=row.short, tags=row.tags,
                        start=row.start, end=row.end, fps=fps, stamp=(stat.st_size, stat.st_mtime_ns))
  skipped += [Skip(name, "file without caption", f"nothing describes {name}.") for name in places if name not in named]
  return sorted(clips.values(), key=lambda clip: clip.key), skipped


def _places(folder, skipped: list[Skip]) -> Iterator[Place]:
  """What is called like a video or an image in a folder and its tars, in the order of names."""
  for path, neighbours in _entries(folder, skipped):
    name = path.relative_to(folder).as_posix()
    if path.suffix.lower() in videos.SUFFIXES:
      beside = {suffix: path.with_suffix(suffix) for suffix in captions.BESIDE if path.with_suffix(suffix).name in neighbours}
      yield Place(name, name, None, beside)
    elif path.suffix == ".tar":
      try:
        for sample in tars.samples(path):
          if isinstance(sample, str):
            skipped.append(Skip(name, "caption without file", f"{name}: {sample}"))
          else:
            yield Place(pathlib.PurePosixPath(name, sample.name.lstrip("/")).as_posix(), name, sample.span, sample.beside)
      except tars.BadTar as e:
        skipped.append(Skip(name, "bad tar", str(e)))
    elif path.name.endswith((".tar.gz", ".tar.zst", ".tgz")):
      skipped.append(Skip(name, "bad tar", f"{name} is compressed, so that no member can be read alone; unpack it to a .tar."))


def _entries(folder, skipped) -> Iterator[tuple[pathlib.Path, set[str]]]:
  """Every file and folder within a folder, and the names beside each."""
  def unlisted(error):
    name = os.path.relpath(error.filename, folder)
    skipped.append(Skip(name, "unreadable folder", f"{name} cannot be listed: {error.strerror}."))

  for where, folders, files in os.walk(folder, onerror=unlisted):
    folders.sort()
    neighbours = set(files)
    for path in sorted(pathlib.Path(where, name) for name in files + folders):
      try:
        path.name.encode()
      except UnicodeEncodeError:
        skipped.append(Skip(ascii(path.name), "bad name", f"{ascii(path.name)}: the name is not UTF-8; rename the file."))
      else:
        yield path, neighbours


def _rows(folder, places, columns) -> Iterator[captions.Described | Skip]:
  """What tables say, and then what stands beside the videos that none of them names."""
  named = set()
  for table in captions.tables(folder):
    for row in captions.rows(table, columns):
      named.add(None if isinstance(row, Skip) else row.file)
      yield row
  for place in places.values():
    if place.beside and place.name not in named:
      where = f"{' and '.join(sorted(place.beside))} beside {place.name}"
      try:
        contents = {suffix: file if isinstance(file, bytes) else captions.head(file) for suffix, file in place.beside.items()}
        yield captions.beside(contents, place.name, where, columns)
      except (OSError, ValueError) as e:
        yield Skip(place.name, "bad caption", f"{where}: {e}")


def _key(row) -> str:
  """The name of the video, and of a part of it the seconds: "a.mp4@0.5", "a.mp4@0-1.25"."""
  if row.end is not None:
    return f"{row.file}@{row.start:.12g}-{row.end:.12g}"
  return row.file + (f"@{row.start:.12g}" if row.start else "")


def _fault(path: pathlib.Path) -> str:
  """Why a path is no file; "" where it is one.  Opening a pipe would wait for ever."""
  try:
    return "" if path.is_file() else "is no file" if path.exists() else "does not exist"
  except OSError as e:
    return f"cannot be looked at: {e.strerror}"
