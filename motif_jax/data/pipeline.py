"""Batches for training and validation, in an order that is a pure function of (seed, step).

The position in the data is one integer, the step: nothing else is saved, and a run goes on with any number of processes and
workers.  `Order.at(step)` names the bucket and the records of the global batch; `Loader` reads this process's rows of it;
grain runs the loader ahead of the training step, in a thread or in worker processes.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from absl import flags
import grain
import numpy as np

from motif_jax.config import BucketConfig, DataConfig
from motif_jax.data import buckets as buckets_lib, lost as lost_records, order as orders, record as record_lib
from motif_jax.data.dataset import Dataset
from motif_jax.data.schedule import Schedule, make_schedule
from motif_jax.data.sources import InOrder

_LAST_STEP = 1 << 40
_MOST_LANES = 256


def batches(cfg: DataConfig, dataset: Dataset, *, seed: int, start_step: int = 0, process_index: int = 0, process_count: int = 1,
            patch: tuple[int, int, int] = (1, 1, 1), lost: dict[str, str] | None = None,
            ) -> Iterator[tuple[BucketConfig, dict[str, np.ndarray]]]:
  """An endless iterator of (bucket, batch) from `start_step` on; call its `close()` when done, or workers linger.

  A batch holds this process's rows, of `Schedule.rows` in all: latents (B, F, H, W, C), first_frame (B, 4, H, W, C),
  text (B, T, dim), teacher (B, F, h, w, dim_t), all float16 as stored, and text_mask (B, T) bool, True for real tokens.
  With `cfg.sample_latents` also log_variance, like latents; with `cfg.image_tokens`, where `Schedule.pictured` says so, image
  (B, I, dim), the tokens of the first frames.
  `patch`: latents per token of the model, by which `cfg.batch_tokens` counts.  `lost`: takes name -> why of each record that
  cannot be read; `endings.Ending` where they are more than `cfg.lost_records` of all.
  """
  indices = split_indices(dataset, cfg.validation)[0]
  order = make_order(cfg, dataset, indices, seed=seed, patch=patch)
  share = Share(process_index, process_count)
  share.check(cfg.batch_size)
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  steps = grain.MapDataset.range(start_step, _LAST_STEP).map(Loader(cfg, dataset, indices, order, share)).to_iter_dataset(ahead)
  if cfg.workers:
    if not flags.FLAGS.is_parsed():  # grain asks them of its workers, and none of ours is absl's
      flags.FLAGS.mark_as_parsed()
    steps = steps.mp_prefetch(grain.MultiprocessingOptions(num_workers=cfg.workers, per_worker_buffer_size=2))
  allowed = int(cfg.lost_records * sum(map(len, indices)))
  return lost_records.Watched(iter(steps), {} if lost is None else lost, allowed=allowed)


def validation_batches(cfg: DataConfig, dataset: Dataset, *, count: int, process_index: int = 0,
                       process_count: int = 1) -> list[tuple[BucketConfig, dict[str, np.ndarray]]]:
  """The first `count` batches of the held-out records, the same at every call: buckets in turn, the long caption, never dropped.
  All have `cfg.batch_size` rows; a bucket with fewer held-out records repeats them, to keep its static shape; empty if
  `cfg.validation` is 0."""
  held_out = split_indices(dataset, cfg.validation)[1]
  present = [number for number, found in enumerate(held_out) if len(found)]
  if not present and cfg.validation > 0:
    raise ValueError(f"data.validation {cfg.validation} holds out none of {sum(p.records for p in dataset.meta.parts)} records; "
                     "raise it, encode more clips, or set it to 0.")
  rows = Share(process_index, process_count).of(cfg.batch_size)
  made = []
  for i in range(count if present else 0):
    number, turn = present[i % len(present)], i // len(present)
    size = len(held_out[number])  # in a fixed mixed order: the first few should not be alike because their names are
    places = orders.shuffled((turn * cfg.batch_size + np.arange(cfg.batch_size)) % size, size, seed=(0,))[rows]
    part, source, indices = dataset.meta.parts[number], dataset.sources[number], held_out[number]
    fetch = lambda place: source[int(indices[place])]
    records = [lost_records.read(fetch, int(place), count=size, name=buckets_lib.name(part.bucket))[0] for place in places]
    texts = [record["text_long"] for record in records]
    made.append((part.bucket, collate(records, texts, part.spec, tokens=cfg.text_tokens)))
  return made


def split_indices(dataset: Dataset, share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """The (training, validation) record indices of each source.  A record's key alone decides, so adding clips moves none."""
  bound = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
  held_out = [source.digests < bound for source in dataset.sources]
  return [np.flatnonzero(~held) for held in held_out], [np.flatnonzero(held) for held in held_out]


@dataclasses.dataclass(frozen=True)
class Share:
  """The part of every batch that a process reads: part `index` of `count` equal ones."""

  index: int
  count: int

  def of(self, rows: int) -> slice:
    """The rows of a global batch of so many."""
    self.check(rows)
    size = rows // self.count
    return slice(self.index * size, (self.index + 1) * size)

  def check(self, rows: int) -> None:
    assert 0 <= self.index < self.count
    if rows % self.count:
      raise ValueError(f"data.batch_size {rows} is not divisible among {self.count} processes; use a multiple of {self.count}.")


@dataclasses.dataclass(frozen=True)
class Order:
  """Which records each step sees, as a function of the step without state.

  The records of a bucket are an endless stream, cut into batches: each is seen once before any is seen twice, and none is left
  out at the end of an epoch.
  """

  schedule: Schedule
  streams: tuple[orders.Random | orders.Shards, ...]  # of each bucket
  seed: int

  def rows(self, step: int) -> tuple[int, np.ndarray]:
    """The number of the bucket of a step, and the rows (B,) of its stream, so that those of a lane lie together."""
    number, before = self.schedule.at(step)
    count = self.schedule.rows[number]
    return number, (before * count + np.arange(count)).reshape(-1, self.streams[number].lanes).T.ravel()

  def pictured(self, step: int) -> bool:
    """Whether the batch of a step starts from a picture whose tokens it holds."""
    return bool(self.schedule.pictured(*self.schedule.at(step)))

  def at(self, step: int) -> tuple[int, np.ndarray]:
    """The number of the bucket of a step, and the places (B,) of its records among the bucket's training records."""
    number, rows = self.rows(step)
    return number, self.streams[number].places(rows)


def make_order(cfg: DataConfig, dataset: Dataset, indices: Sequence[np.ndarray], *, seed: int,
               patch: tuple[int, int, int]) -> Order:
  """The `Order` of the training records `indices` of each bucket."""
  schedule = make_schedule(cfg, dataset, [len(found) for found in indices], patch=patch)
  streams = []
  for number, (found, source) in enumerate(zip(indices, dataset.sources)):
    lengths = np.diff(np.searchsorted(found, np.cumsum((0, *source.shards)))).tolist()
    streams.append(stream_of(cfg, lengths, (seed, number)))
  return Order(schedule, tuple(streams), seed)


def stream_of(cfg: DataConfig, lengths: Sequence[int], seed: tuple[int, ...]) -> orders.Random | orders.Shards:
  """The stream of a bucket whose shards have so many training records."""
  if cfg.order == "random":
    return orders.Random(sum(lengths), seed)
  # As many lanes as processes may ask for, since each should have lanes of its own; a lane has a file open.
  lanes = max(lanes for lanes in range(1, min(cfg.batch_size, _MOST_LANES) + 1) if cfg.batch_size % lanes == 0)
  return orders.Shards(tuple(lengths), lanes, max(1, cfg.window // lanes), seed)


class Loader:
  """step -> (bucket, batch of this process's rows).  Picklable: grain sends it to its workers."""

  def __init__(self, cfg: DataConfig, dataset: Dataset, indices, order: Order, share: Share):
    self._cfg, self._meta, self._indices, self._order, self._share = cfg, dataset.meta, indices, order, share
    self._sources = dataset.sources if cfg.order == "random" else tuple(map(InOrder, dataset.sources, indices, order.streams))

  def __call__(self, step: int) -> tuple[BucketConfig, dict[str, np.ndarray]]:
    number, rows = self._order.rows(int(step))
    part, ours = self._meta.parts[number], self._share.of(len(rows))
    if self._cfg.order != "random":
      self._sources[number].expect(rows[ours])
    fetch, count, name = functools.partial(self.fetch, number), len(self._indices[number]), buckets_lib.name(part.bucket)
    places = self._order.streams[number].places(rows[ours]).tolist()
    found = [lost_records.read(fetch, place, count=count, name=name) for place in places]
    records = [record for record, _ in found]
    # Drawn for the whole batch, then cut: row i gets the same caption on any number of processes.
    draws = np.random.default_rng((self._order.seed, int(step))).random((len(rows), 2))[ours]
    texts = [self._text(record, *draw) for record, draw in zip(records, draws)]
    beside = ["log_variance"] * self._cfg.sample_latents + ["image"] * self._order.pictured(int(step))
    batch = collate(records, texts, part.spec, tokens=self._cfg.text_tokens, beside=beside)
    return part.bucket, batch | {lost_records.KEY: tuple(missed for _, lost in found for missed in lost)}

  def fetch(self, number: int, place: int) -> dict:
    """The training record at `place` of bucket `number`: the one door that records come through."""
    return self._sources[number][int(self._indices[number][place])]

  def _text(self, record, drop, variant) -> np.ndarray:
    if drop < self._cfg.caption_drop:
      return self._meta.text_empty
    long, short, _ = self._cfg.captions
    return record["text_long" if variant < long else "text_short" if variant < long + short else "text_truncated"]


def collate(records: Sequence[dict], texts: Sequence[np.ndarray], spec: record_lib.Spec, *, tokens: int,
            beside: Sequence[str] = ()) -> dict[str, np.ndarray]:
  """A batch of `records` with `texts` (T_i, dim), each cut or padded on the right to `tokens`; with what is named `beside` of
  "log_variance" and "image".  One of the three doors where shapes are asserted."""
  text = np.zeros((len(texts), tokens, spec.text_dim), np.float16)
  mask = np.zeros((len(texts), tokens), bool)
  for row, features in enumerate(texts):
    length = min(len(features), tokens)
    text[row, :length], mask[row, :length] = features[:length], True
  # As they are stored: widening here took ten times as long as all the rest, and doubled what goes to the device.
  batch = {name: np.stack([record[name] for record in records])
           for name in ("latents", "first_frame", "teacher", *beside) if name in spec.shapes}
  for name, array in batch.items():
    if array.shape[1:] != spec.shapes[name]:
      raise ValueError(f"records have {name} of shape {array.shape[1:]}, the data set's metadata says {spec.shapes[name]}.")
  return batch | dict(text=text, text_mask=mask)
