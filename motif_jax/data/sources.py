"""How the records of one bucket's folder are read: one by one, all at once into memory, or shard after shard.

A source is anything picklable with `__len__`, `__getitem__(i) -> record`, `digests` and `shards`, how many records each of its
files has; `SOURCES` at the bottom.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module

from motif_jax.data import record as record_lib
from motif_jax.data.order import Shards

SPLIT = "clips"  # of tfds
# Threads of array_record's own double the CPU time of a record; batches are read ahead as it is.
_NO_THREADS = {"max_parallelism": "0"}
_IN_ORDER = "readahead_buffer_size:0,max_parallelism:0"
_FILE_BUFFER = 1 << 20  # bytes that one request to the file system asks for, where a shard is read in order


class ArrayRecordSource:
  """The records of one bucket's folder, read from disk one by one."""

  def __init__(self, folder):
    folder = pathlib.Path(folder)
    info = tfds.builder_from_directory(folder).info
    split = info.splits[SPLIT]
    self._features, self._files = info.features, [str(file) for file in split.filepaths]
    self._records = array_record_data_source.ArrayRecordDataSource(split.file_instructions, _NO_THREADS)
    self.shards = tuple(split.shard_lengths)  # how many records each has
    self.digests = np.load(folder / "digests.npy")

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return self.decode(self.content(index))

  def content(self, index: int) -> bytes:
    """The bytes of a record, read alone."""
    return self._records[index]

  def decode(self, content: bytes) -> dict:
    """The record that was written as `content`."""
    return record_lib.from_example(self._features.deserialize_example_np(content))

  def scan(self, indices: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(index, content) of the records at ascending `indices` of one shard, whose file is read without a jump.  What cannot be
    read, and all that lies behind it, is left out: `__getitem__` says what is wrong with it."""
    shard = int(np.searchsorted(np.cumsum(self.shards), indices[0], side="right"))
    before = sum(self.shards[:shard])
    reader = array_record_module.ArrayRecordReader(self._files[shard], _IN_ORDER, file_reader_buffer_size=_FILE_BUFFER)
    wanted = set(indices.tolist())
    try:
      reader.seek(int(indices[0]) - before)
      for index in range(int(indices[0]), int(indices[-1]) + 1):
        content = reader.read()
        if index in wanted:
          yield index, content
    except (IndexError, OSError, RuntimeError, ValueError):  # as array_record says that bytes are damaged or missing
      pass
    finally:
      reader.close()


class MemorySource:
  """The same, all read once and kept: for data sets that fit into memory on disks that are slow."""

  def __init__(self, folder):
    source = ArrayRecordSource(folder)
    self.digests, self.shards = source.digests, source.shards
    self._records = [source[i] for i in range(len(source))]

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return self._records[index]


class InOrder:
  """A source whose records are read as a stream of lanes asks for them: each shard from first to last, a window ahead.

  What it keeps is a cache and no state: any row may be asked for at any time.  After a jump, such as the start of a run, a lane
  reads at most two windows before it can answer, and that is all that a restart costs.
  """

  def __init__(self, source: ArrayRecordSource, indices: np.ndarray, stream: Shards):
    self._source, self._indices, self._stream = source, indices, stream
    self._lanes: dict[int, _Span] = {}
    self._ready: dict[int, bytes] = {}

  def expect(self, rows: np.ndarray) -> None:
    """Reads on until the records of these rows (B,) of the stream are at hand."""
    self._ready, window = {}, self._stream.window
    for lane, epoch, span, turn, position in zip((rows % self._stream.lanes).tolist(),
                                                 *(array.tolist() for array in self._stream.turns(rows))):
      reading = self._lanes.get(lane)
      if reading is None or reading.of != (epoch, span) or not reading.turn <= turn <= reading.turn + window:
        first = max(0, turn - window)
        reading = self._lanes[lane] = _Span((epoch, span), self._contents(epoch, span, first))
      self._ready |= reading.take(turn, position, window)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict:
    content = self._ready.get(index)
    return self._source[index] if content is None else self._source.decode(content)

  def _contents(self, epoch, span, first) -> Iterator[tuple[int, int, bytes]]:
    """(position, index, content) in the reading order of a span, from a position on."""
    start, stop = self._stream.start(np.array([span, span + 1]))
    indices = self._indices[self._stream.stored(epoch, np.arange(start + first, stop))]
    shards = np.searchsorted(np.cumsum(self._source.shards), indices, side="right")
    for piece in np.split(indices, np.flatnonzero(np.diff(shards)) + 1):
      for index, content in self._source.scan(piece):
        yield first + int(np.searchsorted(piece, index)), index, content
      first += len(piece)


class _Span:
  """What a lane has read of a span, and not given away yet."""

  def __init__(self, of, contents):
    self.of, self.turn = of, 0
    self._contents, self._held, self._next = contents, {}, 0

  def take(self, turn, position, window) -> dict[int, bytes]:
    """{index: content} of the record at `position`; empty where it could not be read."""
    while self._next <= position and (found := next(self._contents, None)):
      self._held[found[0]] = found[1:]
      self._next = found[0] + 1
    for old in [p for p in self._held if p < turn - window]:  # rows of other processes, or of before a jump
      del self._held[old]
    self.turn = turn
    index, content = self._held.pop(position, (None, None))
    return {} if content is None else {index: content}


# Name -> what opens the folder of one bucket.  `tests/test_dataset.py` runs over all of them.
SOURCES = {"array_record": ArrayRecordSource, "memory": MemorySource}
