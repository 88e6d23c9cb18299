"""What is said of clips: the rows of tables, and the files that stand beside a video, in a folder or in a tar.

  FOLDER/captions*.jsonl, captions*.csv, captions*.parquet    tables of many clips
  a/b.json, a/b.txt                                           of the video a/b.mp4 alone; the text is its long caption

  file          the video, a path within the folder; in tables only
  long, short   a detailed caption and a brief one       tags    a list, or a text with commas
  start, end    seconds, both optional: the part of the file that is described

One of long, short and tags must be there.  Without a short caption the tags make one, or the first sentence of the long one;
without a long caption the short one stands for it.  Other entries are passed over.
"""

import csv
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping

import pyarrow
import pyarrow.parquet

from motif_jax.data.clip import Skip

FIELDS = ("file", "long", "short", "tags", "start", "end")
TABLES = (".jsonl", ".csv", ".parquet")
BESIDE = (".json", ".txt")
ROW_BYTES = 1 << 20  # a longer row is no caption
GROUP_BYTES = 1 << 30  # of the columns read from one row group of a parquet file, which comes into memory as a whole


@dataclasses.dataclass(frozen=True)
class Described:
  """A row: a part of a file, and what is said of it."""

  where: str  # the table and line, for messages
  file: str
  long: str
  short: str
  tags: tuple[str, ...]
  start: float
  end: float | None


def tables(folder) -> list[pathlib.Path]:
  """The tables of captions in a folder, sorted."""
  return sorted(p for p in pathlib.Path(folder).glob("captions*") if p.suffix in TABLES and p.is_file())


def rows(table: pathlib.Path, columns: Mapping[str, str] = {}) -> Iterator[Described | Skip]:
  """The rows of a table, and what is wrong with those that cannot be used.  `columns`: our name of a field -> the table's."""
  read = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[table.suffix]
  where = table.name
  try:
    for number, given in read(table, columns):
      where = f"{table.name}:{number}"
      try:
        yield described(given(), where, columns=columns)
      except ValueError as e:
        yield Skip(where, "bad line", f"{where}: {e}")
  except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as e:
    said = " ".join(str(e).split())[:300]
    yield Skip(table.name, "bad table", f"{table.name} cannot be read on after {where}: {said}")


def head(file: pathlib.Path) -> bytes:
  """The bytes of a file, or one more than a row may have."""
  with open(file, "rb") as opened:
    return opened.read(ROW_BYTES + 1)


def beside(contents: Mapping[str, bytes], file: str, where: str, columns: Mapping[str, str] = {}) -> Described:
  """The row of `file` that the files beside it make, suffix -> content; ValueError for what cannot be used."""
  given = _object(contents[".json"]) if ".json" in contents else {}
  name = columns.get("long", "long")
  if ".txt" in contents and not given.get(name):
    given = given | {name: _text(contents[".txt"])}
  return described(given | {columns.get("file", "file"): file}, where, columns=columns)


def described(given: Mapping, where: str, *, columns: Mapping[str, str] = {}) -> Described:
  """The checked row of what is given; ValueError says what is wrong with it."""
  given = {name: given.get(columns.get(name, name)) for name in FIELDS}
  file, long, short = (_words(name, given[name]) for name in ("file", "long", "short"))
  path = pathlib.PurePosixPath(file)
  if not path.name or path.is_absolute() or ".." in path.parts or "\0" in file:
    raise ValueError(f"file is {given['file']!r}, expected a path inside the folder.")
  tags = _tags(given["tags"])
  short = short or ", ".join(tags) or first_sentence(long)
  if not short:
    raise ValueError("there is no caption; expected one of long, short and tags.")
  start, end = _seconds("start", given["start"]) or 0.0, _seconds("end", given["end"])
  if end is not None and end <= start:
    raise ValueError(f"end is {end:g} s, expected more than start, which is {start:g} s.")
  return Described(where, path.as_posix(), long or short, short, tags, start, end)


def first_sentence(caption: str) -> str:
  """The truncated caption: the first sentence of a long one."""
  return re.split(r"(?<=[.!?])\s", caption.strip(), maxsplit=1)[0]


def _jsonl(path, columns):
  with open(path, "rb") as file:
    number = 0
    while line := file.readline(ROW_BYTES + 1):
      number += 1
      rest = line
      while len(rest) > ROW_BYTES and not rest.endswith(b"\n"):  # what is left of a line that is too long, as `line` is then
        rest = file.readline(ROW_BYTES + 1)
      if line.strip():
        yield number, lambda line=line: _object(line)


def _csv(path, columns):
  with open(path, encoding="utf-8-sig", newline="") as file:  # what spreadsheets write begins with a mark
    table = csv.DictReader(_bounded(file), strict=True)
    _check_columns(table.fieldnames or (), columns)
    for given in table:
      yield table.line_num, lambda given=given: _whole(given)


def _whole(given: dict) -> dict:
  if None in given:
    raise ValueError("has more values than the header has columns; a text with commas needs quotes.")
  return given


def _bounded(file) -> Iterator[str]:
  while line := file.readline(ROW_BYTES):
    if len(line) == ROW_BYTES:
      raise ValueError(f"a line has more than {ROW_BYTES} characters.")
    yield line


def _parquet(path, columns):
  with pyarrow.parquet.ParquetFile(path) as table:
    _check_columns(table.schema_arrow.names, columns)
    wanted = [name for name in (columns.get(field, field) for field in FIELDS) if name in table.schema_arrow.names]
    places = [i for i in range(table.metadata.num_columns) if table.schema.column(i).path.split(".")[0] in wanted]
    number = 0
    for group in range(table.num_row_groups):
      size = sum(table.metadata.row_group(group).column(i).total_uncompressed_size for i in places)
      if size > GROUP_BYTES:
        raise ValueError(f"row group {group} holds {size} bytes of captions, expected at most {GROUP_BYTES}; write smaller ones.")
      for batch in table.iter_batches(batch_size=1024, row_groups=[group], columns=wanted):
        for given in batch.to_pylist():
          number += 1
          yield number, lambda given=given: given


def _check_columns(names, columns) -> None:
  file, *captions = (columns.get(field, field) for field in ("file", "long", "short", "tags"))
  if file not in names or not set(captions) & set(names):
    raise ValueError(f"its columns are {', '.join(names) or 'none'}; expected {file}, and one of {', '.join(captions)}.")


def _text(content: bytes) -> str:
  if len(content) > ROW_BYTES:
    raise ValueError(f"has more than {ROW_BYTES} bytes; captions are shorter.")
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as e:
    raise ValueError(f"is not UTF-8 text (byte {e.start} is {content[e.start]:#04x}).") from e


def _object(content: bytes) -> dict:
  try:
    given = json.loads(_text(content))
  except json.JSONDecodeError as e:
    raise ValueError(f"not JSON ({e.msg} at column {e.colno}).") from e
  except RecursionError as e:
    raise ValueError("is nested too deeply.") from e
  if not isinstance(given, dict):
    raise ValueError(f"is a {type(given).__name__}, expected an object with file, long and short.")
  return given


def _words(name, given) -> str:
  if given is None:
    return ""
  if not isinstance(given, str):
    raise ValueError(f"{name} is {given!r:.80}, expected text.")
  try:
    given.encode()
  except UnicodeEncodeError as e:  # JSON can spell half of a pair of surrogates
    raise ValueError(f"{name} holds {given[e.start]!r}, which is no character.") from e
  if len(given) > ROW_BYTES:
    raise ValueError(f"{name} has {len(given)} characters, expected at most {ROW_BYTES}.")
  return given.strip()


def _tags(given) -> tuple[str, ...]:
  words = given.split(",") if isinstance(given, str) else given or ()
  if not isinstance(words, (list, tuple)):
    raise ValueError(f"tags is {given!r:.80}, expected a list of texts, or a text with commas.")
  return tuple(dict.fromkeys(word for tag in words if (word := _words("tags", tag))))


def _seconds(name, given) -> float | None:
  if given is None or given == "":
    return None
  try:
    seconds = math.nan if isinstance(given, bool) else float(given)
  except (OverflowError, TypeError, ValueError):
    seconds = math.nan
  if not 0 <= seconds < math.inf:
    raise ValueError(f"{name} is {given!r:.80}, expected seconds from 0 on.")
  return seconds
