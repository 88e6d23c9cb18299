"""Bulk encoding: a folder of captioned videos becomes a data set of latents and features.

The encoders and the compiler come in as arguments: this file knows none of them, and no device.  Clips are cut into shards by
sorted key before any is decoded, and a rerun keeps finished shards, so that an interrupted data set, gone on with, equals an
undisturbed one.  While work goes on, OUTPUT/unfinished/ holds a note for each finished shard; dataset.json is written last.
"""

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence

from motif_jax.config import BucketConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import dataset as dataset_lib
from motif_jax.data import record as record_lib
from motif_jax.data import videos
from motif_jax.data.clip import Clip, Skip
from motif_jax.data.extract import Encoders, Extractor, Reader, spec_of
from motif_jax.data.survey import survey

_SAY_EVERY = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class Report:
  """What encoding did: the number of records of each bucket, and what was skipped."""

  records: dict[str, int]
  skipped: tuple[Skip, ...]

  def table(self, *, examples: int = 3) -> str:
    """A line for each bucket and for each reason, with a few examples."""
    lines = [f"{count:8d} clips encoded in bucket {name}" for name, count in self.records.items()]
    for reason, count in sorted(collections.Counter(skip.reason for skip in self.skipped).items()):
      lines.append(f"{count:8d} skipped: {reason}")
      lines += [f"{'':9}  {skip.detail}" for skip in self.skipped if skip.reason == reason][:examples]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Shard:
  """A run of clips of one bucket that is written, or not, as a whole."""

  bucket: BucketConfig
  index: int
  count: int
  clips: tuple[Clip, ...]

  def file(self, output) -> pathlib.Path:
    return dataset_lib.shard_path(output, self.bucket, self.index, self.count)

  def note(self, output) -> pathlib.Path:
    return dataset_lib.unfinished(output) / f"{buckets_lib.name(self.bucket)}-{self.index:05d}.json"


@dataclasses.dataclass(frozen=True)
class Note:
  """What is known of a finished shard."""

  fingerprint: str
  keys: tuple[str, ...]
  skipped: tuple[Skip, ...]
  spec: record_lib.Spec | None  # None: every clip of the shard was skipped

  @classmethod
  def from_json(cls, content: str) -> "Note":
    c = json.loads(content)
    return cls(c["fingerprint"], tuple(c["keys"]), tuple(Skip(**skip) for skip in c["skipped"]),
               c["spec"] and record_lib.Spec.from_dict(c["spec"]))


def encode(source, output, buckets: Sequence[BucketConfig], encoders: Encoders, *, jit: Callable, fps: float = videos.FPS,
           batch_size: int = 16, clips_per_shard: int = 256, readers: int = 4, say: Callable[[str], None] = print) -> Report:
  """The `Report` of making a data set in `output` of the captioned videos in `source`.

  `jit` compiles an encoder (`jax.jit`); batches of a bucket have `batch_size` rows; `readers` threads decode ahead.
  Raises a ValueError, and leaves nothing that looks whole, where no clip can be used or `output` holds another data set.
  """
  for bucket in buckets:
    encoders.codec.grid(bucket.frames, bucket.height, bucket.width)  # its error names the sizes that the codec takes
  output = pathlib.Path(output)
  found = survey(source, buckets, fps=fps, readers=readers)
  made_by = encoders.describe()
  fingerprint = _fingerprint([made_by, fps, [(buckets_lib.name(b), clips) for b, clips in found.clips.items()]])
  if (output / "dataset.json").exists():
    return _whole(output, fingerprint, say)
  shards = [Shard(bucket, index, -(-len(clips) // clips_per_shard), clips[start:start + clips_per_shard])
            for bucket, clips in found.clips.items() for index, start in enumerate(range(0, len(clips), clips_per_shard))]
  if not shards:
    raise ValueError(f"no clip in {source} can be used:\n{Report({}, found.skipped).table()}")

  fingerprints = [_fingerprint([made_by, fps, buckets_lib.name(s.bucket), s.clips]) for s in shards]
  _prepare(output, shards, fingerprints)
  progress = Progress(sum(len(s.clips) for s in shards), say)
  extractor = Extractor(encoders, jit=jit)
  notes = []
  with contextlib.closing(Reader(source, threads=readers, ahead=2 * batch_size)) as reader:
    for shard, expected in zip(shards, fingerprints):
      if shard.note(output).exists():
        notes.append(Note.from_json(shard.note(output).read_text()))
        progress.kept(len(shard.clips))
      else:
        notes.append(_write(shard, output, expected, reader, extractor, batch_size, progress))
  report = Report(_counts(shards, notes), found.skipped + tuple(skip for note in notes for skip in note.skipped))
  if not report.records:
    _clear(output, shards)
    raise ValueError(f"no clip in {source} can be used:\n{report.table()}")
  _finish(output, shards, notes, report, encoders, fingerprint)
  return report


def _whole(output, fingerprint, say) -> Report:
  """The report of a data set that is there already."""
  meta = dataset_lib.Meta.from_json((output / "dataset.json").read_text())
  if meta.fingerprint != fingerprint:
    raise ValueError(f"{output} holds a whole data set already, made from other videos, captions, buckets or encoders "
                     f"(its codec: {meta.codec['name']}); choose another output folder, or delete this one.")
  shutil.rmtree(dataset_lib.unfinished(output), ignore_errors=True)
  say(f"{output} is whole and matches: nothing to do.")
  content = json.loads((output / "report.json").read_text())
  return Report(content["records"], tuple(Skip(**skip) for skip in content["skipped"]))


def _prepare(output, shards, fingerprints) -> None:
  """Makes the folders, and removes what an interrupted run left that is not part of this one."""
  dataset_lib.unfinished(output).mkdir(parents=True, exist_ok=True)
  wanted = {shard.note(output): (shard, expected) for shard, expected in zip(shards, fingerprints)}
  for note in dataset_lib.unfinished(output).glob("*.json"):
    shard, expected = wanted.get(note, (None, None))
    if not shard or not shard.file(output).exists() or Note.from_json(note.read_text()).fingerprint != expected:
      note.unlink()
  files = {shard.file(output) for shard in shards}
  for folder in {file.parent for file in files}:
    folder.mkdir(exist_ok=True)
    for stray in [f for f in dataset_lib.shard_files(folder) if f not in files]:
      stray.unlink()


def _write(shard, output, fingerprint, reader, extractor, batch_size, progress) -> Note:
  """Encodes and writes a shard, then its note."""
  skipped, specs = [], []

  def records():
    for clips, frames in reader.batches(shard.clips, shard.bucket, rows=batch_size, skipped=skipped):
      made = extractor.records(clips, frames, rows=batch_size)
      specs.append(spec_of(made[0]))
      yield from ((record, specs[0]) for record in made)
      progress.made(len(clips))

  keys = dataset_lib.write_shard(shard.file(output), records())
  progress.made(len(skipped))
  note = Note(fingerprint, tuple(keys), tuple(skipped), specs[0] if specs else None)
  dataset_lib.write_text(shard.note(output), json.dumps(dataclasses.asdict(note)))
  return note


def _counts(shards, notes) -> dict[str, int]:
  """Records of each bucket that has any."""
  counts = collections.Counter()
  for shard, note in zip(shards, notes):
    counts[buckets_lib.name(shard.bucket)] += len(note.keys)
  return {name: count for name, count in sorted(counts.items()) if count}


def _finish(output, shards, notes, report, encoders, fingerprint) -> None:
  """Writes all that makes the shards a data set; dataset.json last."""
  parts = []
  for bucket in dict.fromkeys(shard.bucket for shard in shards):
    own = [note for shard, note in zip(shards, notes) if shard.bucket == bucket]
    spec = next((note.spec for note in own if note.spec), None)
    if spec is None:
      shutil.rmtree(output / buckets_lib.name(bucket))
      continue
    parts.append(dataset_lib.Part(bucket, spec, sum(len(note.keys) for note in own)))
    dataset_lib.write_part(output, parts[-1], [note.keys for note in own])
  dataset_lib.write_text(output / "report.json", json.dumps(dataclasses.asdict(report), indent=1))
  dataset_lib.write_meta(output, dataset_lib.Meta(**encoders.describe(), text_empty=encoders.text_empty(), parts=tuple(parts),
                                                  fingerprint=fingerprint))
  shutil.rmtree(dataset_lib.unfinished(output))


def _clear(output, shards) -> None:
  """Removes what this run made, and the folder if nothing else is in it."""
  for folder in [dataset_lib.unfinished(output), *{shard.file(output).parent for shard in shards}]:
    shutil.rmtree(folder)
  with contextlib.suppress(OSError):
    output.rmdir()


def _fingerprint(content) -> str:
  plain = json.dumps(content, default=dataclasses.asdict, sort_keys=True)
  return hashlib.sha256(f"{dataset_lib.FORMAT} {plain}".encode()).hexdigest()[:32]


class Progress:
  """Says now and then how far encoding is, and how long it will still take."""

  def __init__(self, total: int, say: Callable[[str], None]):
    self._total, self._say = total, say
    self._kept = self._made = 0
    self._began = self._said = time.monotonic()

  def kept(self, clips: int) -> None:
    """Counts clips of a shard that an earlier run finished: they cost no time."""
    self._kept += clips

  def made(self, clips: int) -> None:
    """Counts clips done in this run."""
    self._made += clips
    now, done = time.monotonic(), self._kept + self._made
    if clips and (now - self._said > _SAY_EVERY or done == self._total):
      self._said = now
      rate = self._made / max(now - self._began, 1e-6)
      left = datetime.timedelta(seconds=round((self._total - done) / rate))
      self._say(f"{done} of {self._total} clips ({done / self._total:.0%}; {self._kept} from before), {rate:.1f} a second, "
                f"{left} left")
