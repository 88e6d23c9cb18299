"""Bulk encoding: the clips of a source become a data set of latents and features, by one job or by many at once.

Encoders and devices come in as arguments: this file knows none of them.  `plan` says what is to be done,
a `shards.Stage` does it shard by shard, in any order and anywhere, and `finish` makes a data set of the shards; dataset.json is
written last.  A rerun keeps finished shards, so that an interrupted data set, gone on with, equals an undisturbed one.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from motif_jax.data import buckets as buckets_lib
from motif_jax.data import dataset as dataset_lib
from motif_jax.data import videos
from motif_jax.data.clip import Skip, counted
from motif_jax.data.extract import Encoders
from motif_jax.data.progress import Progress
from motif_jax.data.shards import Note, Shard, cut, empty_file, fingerprint
from motif_jax.data.survey import Survey

CLIPS_PER_SHARD = 256
SHARD_BYTES = 1 << 29  # about: an interrupted job does a shard's work again


@dataclasses.dataclass(frozen=True)
class Report:
  """What encoding did: the number of records of each bucket, and what was skipped."""

  records: dict[str, int]
  skipped: tuple[Skip, ...]

  def table(self, *, examples: int = 3) -> str:
    """A line for each bucket and for each reason, with a few examples."""
    lines = [f"{count:8d} clips encoded in bucket {name}" for name, count in self.records.items()]
    return "\n".join(lines + counted(self.skipped, examples=examples))


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a source becomes in an output folder."""

  source: str
  output: pathlib.Path
  shards: tuple[Shard, ...]
  skipped: tuple[Skip, ...]  # before anything is decoded
  fingerprint: str  # of the data set

  @property
  def clips(self) -> int:
    return sum(len(shard.clips) for shard in self.shards)

  def whole(self) -> Report | None:
    """The report of the data set if it is there; ValueError if another one is."""
    if not (self.output / "dataset.json").exists():
      return None
    meta = dataset_lib.Meta.from_json((self.output / "dataset.json").read_text())
    if meta.fingerprint != self.fingerprint:
      raise ValueError(f"{self.output} holds a whole data set already, made from other videos, captions, buckets or encoders "
                       f"(its codec: {meta.codec['name']}); choose another output folder, or delete this one.")
    shutil.rmtree(dataset_lib.unfinished(self.output), ignore_errors=True)
    content = json.loads((self.output / "report.json").read_text())
    return Report(content["records"], tuple(Skip(**skip) for skip in content["skipped"]))


def encode(source, found: Survey, output, encoders: Encoders, write: Callable[[Sequence[Shard], Callable[[int], None]], None], *,
           clips_per_shard: int = CLIPS_PER_SHARD, job: tuple[int, int] = (0, 1),
           say: Callable[[str], None] = print) -> Report | None:
  """The `Report` of making a data set in `output` of what was `found` in `source`; None where other jobs have work left.

  `job` (i, n): this is job i of n, which takes every nth shard; the one that finds all shards there finishes the data set.
  `encoders`: their names and sizes alone.  `write` has a `shards.Stage` write the shards it is given, each unless it is there,
  and tells its second argument of clips that are done.
  Raises a ValueError, and leaves nothing that looks whole, where no clip can be used or `output` holds another data set.
  """
  todo = plan(source, found, output, encoders, clips_per_shard=clips_per_shard)
  if report := todo.whole():
    say(f"{output} is whole and matches: nothing to do.")
    return report
  prepare(todo, alone=job[1] == 1)
  mine = todo.shards[job[0]::job[1]]
  missing = [shard for shard in mine if Note.of(shard, todo.output) is None]
  count = lambda shards: sum(len(shard.clips) for shard in shards)
  progress = Progress(count(mine), say)
  progress.kept(count(mine) - count(missing))
  if missing:
    try:
      write(missing, progress.made)
    except FileNotFoundError:
      if not todo.whole():  # or else a job that was given the same has finished the data set, and cleared up
        raise
  return finish(todo, encoders, say=say)


def plan(source, found: Survey, output, encoders: Encoders, *, clips_per_shard: int) -> Plan:
  """The `Plan` for what was `found` in `source`, the same in every job."""
  shards = cut(found.clips, encoders, clips_per_shard=clips_per_shard, shard_bytes=SHARD_BYTES)
  if not shards:
    raise ValueError(f"no clip in {source} can be used:\n{Report({}, found.skipped).table()}")
  made_from = [encoders.describe(), sorted({buckets_lib.name(shard.bucket): shard.spec for shard in shards}.items()),
               [(buckets_lib.name(bucket), clips) for bucket, clips in found.clips.items()]]
  return Plan(str(source), pathlib.Path(output), tuple(shards), found.skipped, fingerprint(made_from))


def prepare(plan: Plan, *, alone: bool) -> None:
  """Makes the folders, and removes what an interrupted run left that is not part of this plan; ValueError unless this job is
  `alone` or the others have the same plan."""
  folder = dataset_lib.unfinished(plan.output)
  folder.mkdir(parents=True, exist_ok=True)
  mark = fingerprint([plan.fingerprint, [shard.fingerprint for shard in plan.shards]])
  before = (folder / "plan").read_text() if (folder / "plan").exists() else mark
  if before != mark and not alone:
    raise ValueError(f"other jobs have begun {plan.output} with another plan: other videos, captions, buckets, encoders or "
                     f"clips_per_shard. If none of them is at work, delete {folder / 'plan'}; finished shards that fit are kept.")
  dataset_lib.write_text(folder / "plan", mark)
  notes = {shard.note(plan.output) for shard in plan.shards if Note.of(shard, plan.output)}
  files = {shard.file(plan.output) for shard in plan.shards}
  for bucket in {file.parent for file in files}:
    bucket.mkdir(exist_ok=True)
    for stray in [f for f in dataset_lib.shard_files(bucket) if f not in files]:
      stray.unlink(missing_ok=True)
    if alone:
      _remove_partials(bucket)
  for stray in [note for note in folder.glob("*.json") if note not in notes]:
    stray.unlink(missing_ok=True)


def finish(plan: Plan, encoders: Encoders, *, say: Callable[[str], None] = print) -> Report | None:
  """The `Report` of the data set, now whole; None where shards are missing.  Needs names and sizes of the encoders alone.

  Two jobs may come here at once: they write the same files, each as a whole.
  """
  notes = [Note.of(shard, plan.output) for shard in plan.shards]
  if None in notes:
    if report := plan.whole():
      return report
    say(f"{len(notes) - notes.count(None)} of {len(notes)} shards are there; the job that writes the last one finishes the data "
        "set, and so does a run without --shard.")
    return None
  report = Report(_counts(plan.shards, notes), plan.skipped + tuple(skip for note in notes for skip in note.skipped))
  if not report.records:
    _clear(plan)
    raise ValueError(f"no clip in {plan.source} can be used:\n{report.table()}")
  try:
    _finish(plan, notes, report, encoders)
  except FileNotFoundError:  # another job has finished meanwhile, and cleared up
    if not plan.whole():
      raise
  return report


def _finish(plan, notes, report, encoders) -> None:
  """Writes all that makes the shards a data set; dataset.json last."""
  parts, output = [], plan.output
  for bucket in dict.fromkeys(shard.bucket for shard in plan.shards):
    own = [(shard, note) for shard, note in zip(plan.shards, notes) if shard.bucket == bucket]
    folder = output / buckets_lib.name(bucket)
    if not any(note.keys for _, note in own):
      shutil.rmtree(folder, ignore_errors=True)
      continue
    _remove_partials(folder)
    parts.append(dataset_lib.Part(bucket, own[0][0].spec, sum(len(note.keys) for _, note in own)))
    dataset_lib.write_part(output, parts[-1], [note.keys for _, note in own], [note.checksums for _, note in own])
  _remove_partials(output)
  text_empty = np.load(empty_file(output, encoders))
  dataset_lib.write_text(output / "report.json", json.dumps(dataclasses.asdict(report), indent=1))
  dataset_lib.write_meta(output, dataset_lib.Meta(**encoders.describe(), text_empty=text_empty, parts=tuple(parts),
                                                  fingerprint=plan.fingerprint))
  shutil.rmtree(dataset_lib.unfinished(output), ignore_errors=True)


def _counts(shards, notes) -> dict[str, int]:
  """Records of each bucket that has any."""
  counts = collections.Counter()
  for shard, note in zip(shards, notes):
    counts[buckets_lib.name(shard.bucket)] += len(note.keys)
  return {name: count for name, count in sorted(counts.items()) if count}


def _remove_partials(folder) -> None:
  """Removes what killed jobs left half written."""
  for path in folder.glob(f"*{videos.PARTIAL}"):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _clear(plan) -> None:
  """Removes what this run made, and the folder if nothing else is in it."""
  for folder in [dataset_lib.unfinished(plan.output), *{shard.file(plan.output).parent for shard in plan.shards}]:
    shutil.rmtree(folder, ignore_errors=True)
  with contextlib.suppress(OSError):
    plan.output.rmdir()
