"""Whether a data set on disk is what was written: counts, checksums and digests of every shard; and records to be looked at."""

import contextlib
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from array_record.python import array_record_module

from motif_jax.data import buckets as buckets_lib
from motif_jax.data import dataset as dataset_lib
from motif_jax.data import record as record_lib
from motif_jax.data.dataset import Part
from motif_jax.data.videos import PARTIAL
from motif_jax.data.worker import Failed, Workers


@dataclasses.dataclass(frozen=True)
class Checked:
  """What was found: how much of it, and all that is wrong, a sentence each."""

  records: int
  bytes: int
  faults: tuple[str, ...]


def check(path, *, readers: int = 0, limit: float = 3600.0, say: Callable[[str], None] = print) -> Checked:
  """The `Checked` of a data set, of which every byte is read, in `readers` processes; ValueError where none is there."""
  path = pathlib.Path(path)
  meta = dataset_lib.open_dataset(path).meta
  faults, records, size = [], 0, 0
  with contextlib.closing(Workers(readers, limit=limit)) as workers:
    waiting = []
    for part in meta.parts:
      shards, wrong = _shards(path, part)
      faults += wrong
      if any(checksums is None for _, _, checksums in shards):
        say(f"{buckets_lib.name(part.bucket)}: made before there were checksums; its values are read and not compared.")
      waiting += [(file, len(digests), workers.submit(check_shard, file, part.spec, digests, checksums))
                  for file, digests, checksums in shards]
    for done, (file, count, future) in enumerate(waiting, 1):
      try:
        faults += future.result()
      except Failed as e:
        faults.append(f"{file}: {e}.")
      records, size = records + count, size + (file.stat().st_size if file.exists() else 0)
      if done % max(1, len(waiting) // 20) == 0:
        say(f"{done} of {len(waiting)} shards read, {len(faults)} faults")
  return Checked(records, size, tuple(faults))


def check_shard(file: pathlib.Path, spec: record_lib.Spec, digests: np.ndarray, checksums: np.ndarray | None) -> list[str]:
  """What is wrong with a shard that should hold a record for each of `digests` (N,)."""
  try:
    reader = array_record_module.ArrayRecordReader(str(file))
    count = reader.num_records()
    if count != len(digests):
      return [f"{file} holds {count} records that can be read, expected {len(digests)}."]
    contents = [reader.read([index])[0] for index in range(count)] if count else []
  except Exception as e:  # whatever the reader says of damage
    return [f"{file} cannot be read: {e}."]
  return [f"{file}, record {index}: {fault}"
          for index, content in enumerate(contents)
          for fault in _faults(content, spec, digests[index], None if checksums is None else checksums[index])]


def samples(path, count: int) -> Iterator[tuple[Part, list[dict]]]:
  """Of each bucket `count` records, evenly spaced from first to last."""
  opened = dataset_lib.open_dataset(path)
  for part, source in zip(opened.meta.parts, opened.sources):
    yield part, [source[int(i)] for i in np.unique(np.linspace(0, len(source) - 1, count).round().astype(int))]


def _shards(path, part):
  """((file, digests, checksums or None) of each shard of a bucket, what is wrong with their number)."""
  folder = path / buckets_lib.name(part.bucket)
  (split,) = json.loads((folder / "dataset_info.json").read_text())["splits"]
  lengths = [int(length) for length in split["shardLengths"]]
  named = {}
  for name, kind in (("digests", np.uint64), ("checksums", np.uint32)):
    file = folder / f"{name}.npy"
    named[name] = np.load(file) if file.exists() else None
    if named[name] is not None and (named[name].shape != (sum(lengths),) or named[name].dtype != kind):
      return [], [f"{file} is {named[name].dtype} {named[name].shape}, expected {np.dtype(kind)} ({sum(lengths)},)."]
  files = [dataset_lib.shard_path(path, part.bucket, index, len(lengths)) for index in range(len(lengths))]
  strays = {file for file in folder.iterdir() if ".array_record-" in file.name or file.name.endswith(PARTIAL)} - set(files)
  ends = np.cumsum(lengths)
  cut = lambda array, i: None if array is None else array[ends[i] - lengths[i]:ends[i]]
  shards = [(file, cut(named["digests"], i), cut(named["checksums"], i)) for i, file in enumerate(files)]
  return shards, [f"{stray} belongs to no data set; delete it." for stray in sorted(strays)]


def _faults(content, spec, digest, checksum):
  """What is wrong with the bytes of one record."""
  if checksum is not None and zlib.crc32(content) != checksum:
    return ["its bytes have another checksum than when they were written."]
  try:
    made = record_lib.from_bytes(content, spec)
    record_lib.check(made, spec)
  except Exception as e:  # whatever tfds says of damage
    return [f"it cannot be read: {e}."]
  same = record_lib.digest(made["key"]) == digest
  return [] if same else [f"its key {made['key']!r} has another digest than digests.npy says."]
