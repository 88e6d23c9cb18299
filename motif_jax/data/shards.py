"""Shards: the unit of encoding.  A run of clips of one bucket is written as a whole, by whichever job or actor takes it.

Clips are cut into shards by sorted key before any is decoded, so that no file depends on who wrote it, or when.  While work goes
on, OUTPUT/unfinished/ holds the plan's fingerprint, a note for each finished shard, and the encoding of the empty caption.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

from motif_jax.config import BucketConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import dataset as dataset_lib
from motif_jax.data import record as record_lib
from motif_jax.data.clip import Clip, Skip
from motif_jax.data.extract import Devices, Encoders, Extractor
from motif_jax.data.progress import Clock
from motif_jax.data.reader import Reader


@dataclasses.dataclass(frozen=True)
class Shard:
  """A run of clips of one bucket, and what its file and its note are called."""

  bucket: BucketConfig
  index: int
  count: int
  clips: tuple[Clip, ...]
  spec: record_lib.Spec
  fingerprint: str  # of all that its bytes follow from

  def file(self, output) -> pathlib.Path:
    return dataset_lib.shard_path(output, self.bucket, self.index, self.count)

  def note(self, output) -> pathlib.Path:
    return dataset_lib.unfinished(output) / f"{buckets_lib.name(self.bucket)}-{self.index:05d}.json"


@dataclasses.dataclass(frozen=True)
class Note:
  """What is known of a finished shard."""

  fingerprint: str
  keys: tuple[str, ...]
  checksums: tuple[int, ...]  # of the records
  skipped: tuple[Skip, ...]

  @classmethod
  def of(cls, shard: Shard, output) -> "Note | None":
    """The note of `shard`; None where it is not finished, or was made from something else."""
    try:
      c = json.loads(shard.note(output).read_text())
    except FileNotFoundError:
      return None
    if c.get("fingerprint") != shard.fingerprint or not shard.file(output).exists():
      return None
    return cls(c["fingerprint"], tuple(c["keys"]), tuple(c["checksums"]), tuple(Skip(**skip) for skip in c["skipped"]))


class Stage:
  """Writes shards.  Close it after use: decoders are processes of their own.

  `decoders` and `limit` as of `Reader`.
  """

  def __init__(self, source, output, encoders: Encoders, devices: Devices, *, decoders: int, limit: float):
    self.clock = Clock()
    self._output, self._encoders, self._rows = pathlib.Path(output), encoders, devices.rows
    self._extractor = Extractor(encoders, devices, clock=self.clock)
    self._reader = Reader(source, decoders=decoders, limit=limit, clock=self.clock)

  def close(self) -> None:
    """Ends the decoders."""
    self._reader.close()

  def write(self, shard: Shard, *, after: Shard | None = None, made: Callable[[int], None] = lambda clips: None) -> Note:
    """The note of `shard`, once it is written.  `after`: the shard that comes next; `made` is told of clips that are done."""
    if not empty_file(self._output, self._encoders).exists():
      dataset_lib.write_array(empty_file(self._output, self._encoders), self._encoders.text_empty())
    skipped, rows = [], self._rows(shard.bucket)
    coming = [(clip, after.bucket) for clip in after.clips] if after else ()

    def records():
      for clips, frames in self._reader.batches(shard.clips, shard.bucket, rows=rows, skipped=skipped, after=coming):
        yield from self._extractor.records(clips, frames, rows=rows)
        made(len(clips))

    keys, checksums = dataset_lib.write_shard(shard.file(self._output), records(), shard.spec, clock=self.clock)
    note = Note(shard.fingerprint, tuple(keys), tuple(checksums), tuple(skipped))
    dataset_lib.write_text(shard.note(self._output), json.dumps(dataclasses.asdict(note)))
    made(len(skipped))
    return note


def cut(clips: dict[BucketConfig, Sequence[Clip]], encoders: Encoders, *, clips_per_shard: int, shard_bytes: int) -> list[Shard]:
  """All shards of the clips of each bucket: at most `clips_per_shard` in each, and about `shard_bytes`."""
  made_by, shards = encoders.describe(), []
  for bucket, found in clips.items():
    spec = encoders.spec(bucket)
    size = max(1, min(clips_per_shard, shard_bytes // record_lib.bytes_of(spec)))
    parts = [tuple(found[start:start + size]) for start in range(0, len(found), size)]
    shards += [Shard(bucket, index, len(parts), part, spec, fingerprint([made_by, dataclasses.asdict(spec), part]))
               for index, part in enumerate(parts)]
  return shards


def empty_file(output, encoders: Encoders) -> pathlib.Path:
  """Where the encoding of the empty caption waits for the data set to be finished."""
  return dataset_lib.unfinished(output) / f"empty-{fingerprint(encoders.describe()['text'])}.npy"


def fingerprint(content) -> str:
  """A digest of plain values and dataclasses."""
  plain = json.dumps(content, default=dataclasses.asdict, sort_keys=True)
  return hashlib.sha256(f"{dataset_lib.FORMAT} {plain}".encode()).hexdigest()[:32]
