"""What a folder of videos and captions holds: the clips that can be encoded, each in its bucket, and the rest with a reason.

  FOLDER/captions.jsonl    a line per clip: {"file": "a/b.mp4", "long": "...", "short": "..."}, and optionally "start": seconds
  FOLDER/a/b.mp4           videos, at any depth, and images (PNG, JPEG), which are videos of one frame
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence

from motif_jax.config import BucketConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import videos
from motif_jax.data.clip import Clip, Skip

CAPTIONS = "captions.jsonl"


@dataclasses.dataclass(frozen=True)
class Survey:
  """The clips of each bucket that has any, sorted by key; buckets sorted by name."""

  clips: dict[BucketConfig, tuple[Clip, ...]]
  skipped: tuple[Skip, ...]


def survey(folder, buckets: Sequence[BucketConfig], *, fps: float = videos.FPS, readers: int = 4) -> Survey:
  """The `Survey` of a folder.  Reads captions.jsonl and the header of every captioned file."""
  folder = pathlib.Path(folder)
  found, skipped = read_captions(folder, fps=fps)
  captioned = {clip.file for clip in found}
  for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in videos.SUFFIXES):
    if (name := path.relative_to(folder).as_posix()) not in captioned:
      skipped.append(Skip(name, "file without caption", f"{name} stands in no line of {CAPTIONS}."))
  with concurrent.futures.ThreadPoolExecutor(readers) as pool:
    placed = list(pool.map(lambda clip: _place(folder, clip, buckets), sorted(found, key=lambda clip: clip.key)))
  skipped += [place for place in placed if isinstance(place, Skip)]
  filled = [place for place in placed if not isinstance(place, Skip)]
  chosen = sorted({bucket for bucket, _ in filled}, key=buckets_lib.name)
  return Survey(clips={b: tuple(clip for bucket, clip in filled if bucket == b) for b in chosen}, skipped=tuple(skipped))


def read_captions(folder, *, fps: float) -> tuple[list[Clip], list[Skip]]:
  """The clips named in captions.jsonl whose files exist, and the lines that cannot be used."""
  path = pathlib.Path(folder) / CAPTIONS
  if not path.is_file():
    there = path.parent.is_dir()
    what = "does not exist" if not there else "is empty" if not any(path.parent.iterdir()) else f"has no {CAPTIONS}"
    raise ValueError(f"{folder} {what}; expected a folder of videos with a {CAPTIONS}, one line for each video: "
                     '{"file": "a.mp4", "long": "a detailed caption", "short": "a brief one"}')
  clips, skipped = {}, []
  for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
    where = f"{CAPTIONS}:{number}"
    if not line.strip():
      continue
    try:
      fields = _fields(line)
    except ValueError as e:
      skipped.append(Skip(where, "bad line", f"{where}: {e}"))
      continue
    file = path.parent / fields["file"]
    key = fields["file"] + (f"@{fields['start']:g}" if fields["start"] else "")
    if not file.is_file():
      skipped.append(Skip(fields["file"], "caption without file", f"{where} names {fields['file']}, which does not exist."))
    elif key in clips:
      skipped.append(Skip(key, "duplicate caption", f"{where} describes {key} again; the first description was taken."))
    else:
      stat = file.stat()
      clips[key] = Clip(key=key, span=None, tags=(), end=None, fps=fps, stamp=(stat.st_size, stat.st_mtime_ns), **fields)
  return list(clips.values()), skipped


def first_sentence(caption: str) -> str:
  """The truncated caption: the first sentence of a long one."""
  return re.split(r"(?<=[.!?])\s", caption.strip(), maxsplit=1)[0]


def _fields(line: str) -> dict:
  """The checked fields of a line."""
  try:
    given = json.loads(line)
  except json.JSONDecodeError as e:
    raise ValueError(f"not JSON ({e.msg} at column {e.colno}).") from e
  if not isinstance(given, dict):
    raise ValueError(f"is a {type(given).__name__}, expected an object with file, long and short.")
  for name in ("file", "long", "short"):
    if not isinstance(given.get(name), str) or not given[name].strip():
      raise ValueError(f"{name} is {given.get(name)!r}, expected text.")
  start = given.get("start", 0.0)
  if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 <= start < float("inf"):
    raise ValueError(f"start is {start!r}, expected seconds from 0 on.")
  file = pathlib.PurePosixPath(given["file"])
  if file.is_absolute() or ".." in file.parts:
    raise ValueError(f"file is {given['file']!r}, expected a path inside the folder.")
  return dict(file=file.as_posix(), long=given["long"].strip(), short=given["short"].strip(), start=float(start))


def _place(folder, clip: Clip, buckets) -> tuple[BucketConfig, Clip] | Skip:
  """The bucket of a clip, and the clip with its rate; or why it has none."""
  try:
    probe = videos.probe(folder / clip.file, start=clip.start, fps=clip.fps)
  except videos.UnreadableVideo as e:
    return Skip(clip.key, e.kind, str(e))
  if bucket := buckets_lib.choose(buckets, probe.frames, probe.height, probe.width):
    return bucket, dataclasses.replace(clip, fps=probe.fps)
  short = all(b.frames > probe.frames for b in buckets)
  return Skip(clip.key, "too short" if short else "too small",
              f"{clip.key} has {probe.frames} frames of {probe.height} x {probe.width}, which fill none of the buckets "
              f"{', '.join(map(buckets_lib.name, buckets))}; clips are never upscaled.")
