"""Batches for training and validation, in an order that is a pure function of (seed, step).

The position in the data is one integer, the step: nothing else is saved, and a run goes on with any number of processes and
workers.  `Order.at(step)` names the bucket and the records of the global batch; `Loader` reads this process's rows of it;
grain runs the loader ahead of the training step, in a thread or in worker processes.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from motif_jax.config import BucketConfig, DataConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import record as record_lib
from motif_jax.data.dataset import Dataset

# Rows of the table that interleaves the buckets; shares are exact where there are fewer batches or records than this.
_MAX_PERIOD = 1 << 16
_LAST_STEP = 1 << 40
_ROUNDS = 6


def batches(cfg: DataConfig, dataset: Dataset, *, seed: int, start_step: int = 0, process_index: int = 0, process_count: int = 1,
            weights: Sequence[float] | None = None) -> Iterator[tuple[BucketConfig, dict[str, np.ndarray]]]:
  """An endless iterator of (bucket, batch) from `start_step` on; call its `close()` when done, or workers linger.

  With `cfg.workers`, absl flags must be parsed (`flags.FLAGS.mark_as_parsed()` in a notebook): grain's workers read them.

  A batch holds this process's rows, `batch_size / process_count` of them: latents (B, F, H, W, C), first_frame (B, 4, H, W, C),
  text (B, T, dim), teacher (B, F, h, w, dim_t), all float32, and text_mask (B, T) bool, True for real tokens.
  `weights`: share of steps of each of `dataset.meta.parts`; by default as many as it has records.
  """
  indices = split_indices(dataset, cfg.validation)[0]
  order = Order(counts=_enough(cfg, dataset, indices), batch_size=cfg.batch_size, seed=seed,
                weights=None if weights is None else tuple(weights))
  loader = Loader(cfg, dataset, indices, order, rows=_rows(cfg, process_index, process_count))
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  steps = grain.MapDataset.range(start_step, _LAST_STEP).map(loader).to_iter_dataset(ahead)
  if cfg.workers:
    steps = steps.mp_prefetch(grain.MultiprocessingOptions(num_workers=cfg.workers, per_worker_buffer_size=2))
  return iter(steps)


def validation_batches(cfg: DataConfig, dataset: Dataset, *, count: int, process_index: int = 0,
                       process_count: int = 1) -> list[tuple[BucketConfig, dict[str, np.ndarray]]]:
  """The first `count` batches of the held-out records, the same at every call: buckets in turn, the long caption, never dropped.
  A bucket with fewer held-out records than rows repeats them, to keep its static shape; empty if `cfg.validation` is 0."""
  held_out = split_indices(dataset, cfg.validation)[1]
  present = [number for number, found in enumerate(held_out) if len(found)]
  if not present and cfg.validation > 0:
    raise ValueError(f"data.validation {cfg.validation} holds out none of {sum(p.records for p in dataset.meta.parts)} records; "
                     "raise it, encode more clips, or set it to 0.")
  rows = _rows(cfg, process_index, process_count)
  made = []
  for i in range(count if present else 0):
    number, turn = present[i % len(present)], i // len(present)
    size = len(held_out[number])  # in a fixed mixed order: the first few should not be alike because their names are
    places = shuffled((turn * cfg.batch_size + np.arange(cfg.batch_size)) % size, size, seed=(0,))[rows]
    records = [dataset.sources[number][int(index)] for index in held_out[number][places]]
    part = dataset.meta.parts[number]
    texts = [record["text_long"] for record in records]
    made.append((part.bucket, collate(records, texts, part.spec, tokens=cfg.text_tokens)))
  return made


def split_indices(dataset: Dataset, share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """The (training, validation) record indices of each source.  A record's key alone decides, so adding clips moves none."""
  bound = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
  held_out = [source.digests < bound for source in dataset.sources]
  return [np.flatnonzero(~held) for held in held_out], [np.flatnonzero(held) for held in held_out]


@dataclasses.dataclass(frozen=True)
class Order:
  """Which records each step sees, as a function of (seed, step) without state.

  The records of a bucket are an endless stream, one permutation after another, cut into batches: each is seen once before any
  is seen twice, and none is left out at the end of an epoch.  Buckets are interleaved as evenly as their shares allow.
  """

  counts: tuple[int, ...]  # training records of each bucket
  batch_size: int
  seed: int
  weights: tuple[float, ...] | None = None

  def at(self, step: int) -> tuple[int, np.ndarray]:
    """The number of the bucket of a step, and the places (B,) of its records among the bucket's training records."""
    order, rank, shares = self._schedule
    cycle, row = divmod(step, len(order))
    number = int(order[row])
    first = (cycle * int(shares[number]) + int(rank[row])) * self.batch_size  # batches of this bucket before this one
    count = self.counts[number]
    epochs, places = np.divmod(first + np.arange(self.batch_size), count)
    shuffled_places = [shuffled(places[epochs == e], count, seed=(self.seed, number, int(e))) for e in np.unique(epochs)]
    return number, np.concatenate(shuffled_places)

  @functools.cached_property
  def _schedule(self):
    """(bucket of each row of the repeating table, how many rows of that bucket precede it, rows of each bucket)."""
    weights = np.array(self.counts if self.weights is None else self.weights, np.float64)
    if len(weights) != len(self.counts) or not np.all(weights > 0):
      raise ValueError(f"weights are {self.weights}, expected {len(self.counts)} positive numbers, one for each bucket.")
    period = min(sum(self.counts), _MAX_PERIOD)
    shares = np.maximum(1, np.round(weights / weights.sum() * period)).astype(np.int64)
    order = np.repeat(np.arange(len(shares)), shares)
    rank = np.concatenate([np.arange(share) for share in shares])
    due = (rank + 0.5) / shares[order]  # each bucket's batches at equal distances over the period
    rows = np.argsort(due, kind="stable")
    return order[rows], rank[rows], shares


def shuffled(places: np.ndarray, count: int, *, seed: Sequence[int]) -> np.ndarray:
  """Where each of `places` (B,) stands in a pseudo-random permutation of range(count).

  A Feistel cipher on the smallest domain 4**n that holds `count`; what falls outside is enciphered again, which keeps it a
  permutation.  Nothing of the length of the data is ever stored.  (`grain.experimental.index_shuffle` does the same on a domain
  of at least 2**16: 1 ms a record where there are few.)
  """
  half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
  keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
  out = _encipher(np.asarray(places, np.uint64), half, keys)
  while len(outside := np.flatnonzero(out >= np.uint64(count))):
    out[outside] = _encipher(out[outside], half, keys)
  return out.astype(np.int64)


def _encipher(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
  mask = (np.uint64(1) << half) - np.uint64(1)
  left, right = values >> half, values & mask
  for key in keys:
    mixed = (right + key) * np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64: every bit depends on every bit
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
  return (left << half) | right


class Loader:
  """step -> (bucket, batch of this process's rows).  Picklable: grain sends it to its workers."""

  def __init__(self, cfg: DataConfig, dataset: Dataset, indices, order: Order, *, rows: slice):
    self._cfg, self._dataset, self._indices, self._order, self._rows = cfg, dataset, indices, order, rows

  def __call__(self, step: int) -> tuple[BucketConfig, dict[str, np.ndarray]]:
    number, places = self._order.at(int(step))
    part, source, indices = self._dataset.meta.parts[number], self._dataset.sources[number], self._indices[number]
    records = [source[int(indices[place])] for place in places[self._rows]]
    # Drawn for the whole batch, then cut: row i gets the same caption on any number of processes.
    draws = np.random.default_rng((self._order.seed, int(step))).random((len(places), 2))[self._rows]
    texts = [self._text(record, *draw) for record, draw in zip(records, draws)]
    return part.bucket, collate(records, texts, part.spec, tokens=self._cfg.text_tokens)

  def _text(self, record, drop, variant) -> np.ndarray:
    if drop < self._cfg.caption_drop:
      return self._dataset.meta.text_empty
    long, short, _ = self._cfg.captions
    return record["text_long" if variant < long else "text_short" if variant < long + short else "text_truncated"]


def collate(records: Sequence[dict], texts: Sequence[np.ndarray], spec: record_lib.Spec, *, tokens: int) -> dict[str, np.ndarray]:
  """A batch of `records` with `texts` (T_i, dim), each cut or padded on the right to `tokens`.  One of the three doors where
  shapes are asserted."""
  text = np.zeros((len(texts), tokens, spec.text_dim), np.float32)
  mask = np.zeros((len(texts), tokens), bool)
  for row, features in enumerate(texts):
    length = min(len(features), tokens)
    text[row, :length], mask[row, :length] = features[:length], True
  batch = {name: np.stack([record[name] for record in records]).astype(np.float32)
           for name in ("latents", "first_frame", "teacher")}
  for name, array in batch.items():
    if array.shape[1:] != spec.shapes[name]:
      raise ValueError(f"records have {name} of shape {array.shape[1:]}, the data set's metadata says {spec.shapes[name]}.")
  return batch | dict(text=text, text_mask=mask)


def _enough(cfg: DataConfig, dataset: Dataset, indices) -> tuple[int, ...]:
  """The number of training records of each bucket, each enough for a batch."""
  counts = tuple(len(found) for found in indices)
  few = {buckets_lib.name(part.bucket): count for part, count in zip(dataset.meta.parts, counts) if count < cfg.batch_size}
  if few:
    listed = ", ".join(f"{name} has {count}" for name, count in few.items())
    raise ValueError(f"data.batch_size is {cfg.batch_size}, but of the training clips {listed} (data.validation {cfg.validation} "
                     "is held out); lower the batch size, encode more clips, or encode without these buckets.")
  return counts


def _rows(cfg: DataConfig, process_index: int, process_count: int) -> slice:
  """The rows of the global batch that this process reads."""
  assert 0 <= process_index < process_count
  if cfg.batch_size % process_count:
    raise ValueError(f"data.batch_size {cfg.batch_size} is not divisible among {process_count} processes; "
                     f"use a multiple of {process_count}.")
  size = cfg.batch_size // process_count
  return slice(process_index * size, (process_index + 1) * size)
