"""Orders of records and of buckets as pure functions of integers: any position is found without those before it.

Nothing here knows files or configs, and nothing of the length of the data is stored.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

_ROUNDS = 6


@dataclasses.dataclass(frozen=True)
class Random:
  """The endless stream of a bucket's records, one permutation of all of them after another."""

  count: int  # records
  seed: tuple[int, ...]
  lanes: ClassVar[int] = 1

  def places(self, rows: np.ndarray) -> np.ndarray:
    """The places (B,), in range(count), of the stream's rows (B,): each comes once before any comes twice."""
    epochs, turns = np.divmod(rows, self.count)
    found = np.empty(len(rows), np.int64)
    for epoch in np.unique(epochs):
      found[epochs == epoch] = shuffled(turns[epochs == epoch], self.count, seed=(*self.seed, int(epoch)))
    return found


class Turns(NamedTuple):
  """Where rows of a stream stand in what is read in order, arrays (B,)."""

  epoch: np.ndarray
  span: np.ndarray  # of the epoch, one for each lane
  turn: np.ndarray  # the row's number among those of the span
  position: np.ndarray  # of its record in the span, less than a window away from its turn


@dataclasses.dataclass(frozen=True)
class Shards:
  """The endless stream of a bucket's records, read in lanes: each lane goes through its shards from first record to last.

  Every epoch puts the shards in a new order, and this reading order is cut into as many spans as there are lanes, of equal
  length give or take a record.  Row i is the next one of lane i % lanes, which takes it from a rolling window of its span.  So
  lanes never wait for each other, every record comes once an epoch, and the order does not depend on who reads which lane.
  """

  lengths: tuple[int, ...]  # records of each shard, in the order in which they are stored
  lanes: int
  window: int  # records of a lane from which its next one is drawn
  seed: tuple[int, ...]

  @functools.cached_property
  def count(self) -> int:
    return sum(self.lengths)

  def places(self, rows: np.ndarray) -> np.ndarray:
    """The places (B,), in range(count) as they are stored, of the stream's rows (B,)."""
    found, turns = np.empty(len(rows), np.int64), self.turns(rows)
    for epoch in np.unique(turns.epoch):
      now = turns.epoch == epoch
      found[now] = self.stored(int(epoch), self.start(turns.span[now]) + turns.position[now])
    return found

  def turns(self, rows: np.ndarray) -> Turns:
    """The turns of the stream's rows (B,)."""
    epoch, within = np.divmod(rows, self.count)
    turn, span = np.divmod(within, self.lanes)
    key = np.random.SeedSequence(self.seed).generate_state(1, np.uint64)
    keys = _mixed(key + (epoch * self.lanes + span).astype(np.uint64))
    return Turns(epoch, span, turn, rolled(turn, self.start(span + 1) - self.start(span), self.window, keys=keys))

  def start(self, span):
    """Where spans (B,) begin in the reading order of their epoch."""
    return span * (self.count // self.lanes) + np.minimum(span, self.count % self.lanes)

  def stored(self, epoch: int, reading: np.ndarray) -> np.ndarray:
    """The places (B,), as they are stored, of positions (B,) in the reading order of an epoch."""
    ends, moves = _reading_order(self, epoch)
    return reading + moves[np.searchsorted(ends, reading, side="right")]


@functools.lru_cache(maxsize=256)
def _reading_order(stream: Shards, epoch: int) -> tuple[np.ndarray, np.ndarray]:
  """(where each shard ends in the reading order of an epoch, how far from there its records are stored), arrays (shards,)."""
  lengths = np.asarray(stream.lengths)
  shards = shuffled(np.arange(len(lengths)), len(lengths), seed=(*stream.seed, epoch))
  ends, stored = np.cumsum(lengths[shards]), np.cumsum(lengths)
  return ends, stored[shards] - ends


def dealt(shares: Sequence[float], turns: int) -> tuple[np.ndarray, int]:
  """How many of the first `turns` turns each of several members had, and whose the next one is.

  Each member has its turns at equal distances: turn r of member i is due at (r + 0.5) / share i.  At any time they have had what
  their shares ask for, give or take half a turn, so only the turns that are due around `turns` have to be put in order.
  """
  shares = np.asarray(shares, np.float64) / np.sum(shares)
  first = np.maximum(0, np.floor((turns - len(shares)) * shares)).astype(np.int64)  # these are due before, whatever is rounded
  around = np.ceil((2 * len(shares) + 2) * shares).astype(np.int64) + 2
  member = np.repeat(np.arange(len(shares)), around)
  rank = first[member] + np.arange(len(member)) - np.repeat(np.cumsum(around) - around, around)
  queue = member[np.lexsort((member, (rank + 0.5) / shares[member]))]
  left = turns - first.sum()
  return first + np.bincount(queue[:left], minlength=len(shares)), int(queue[left])


def shuffled(places: np.ndarray, count: int, *, seed: Sequence[int]) -> np.ndarray:
  """Where each of `places` (B,) stands in a pseudo-random permutation of range(count)."""
  return _permuted(places, np.full(len(places), count), np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)[:, None])


def rolled(places: np.ndarray, counts: np.ndarray, window: int, *, keys: np.ndarray) -> np.ndarray:
  """Where each of `places` (B,) stands in a permutation of range(counts) (B,) that moves nothing by `window` or more.

  Blocks of two thirds of a window are shuffled, and then blocks that lie across their borders.  `keys` (B,): one for each
  permutation.
  """
  block = max(1, 2 * window // 3)
  for shift in (0, block // 2):
    number = (places + shift) // block
    first = np.maximum(0, number * block - shift)
    size = np.minimum(counts, (number + 1) * block - shift) - first
    own = _mixed(_mixed(keys + np.uint64(shift)) + number.astype(np.uint64))
    rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    places = first + _permuted(places - first, size, _mixed(own + rounds))
  return places


def _permuted(places, counts, keys) -> np.ndarray:
  """`places` (B,) permuted within range(counts) (B,) by a Feistel cipher with `keys` (rounds, B) or (rounds, 1).

  It works on the smallest domain 4**n that holds a count; what falls outside is enciphered again, which keeps it a permutation.
  (`grain.experimental.index_shuffle` does the same on a domain of at least 2**16: 1 ms a record where there are few.)
  """
  half = np.maximum(1, (np.frexp(counts - 1)[1] + 1) // 2).astype(np.uint64)  # frexp: the number of bits
  keys = np.broadcast_to(keys, (len(keys), len(places)))
  out = _enciphered(np.asarray(places, np.uint64), half, keys)
  while len(outside := np.flatnonzero(out >= counts.astype(np.uint64))):
    out[outside] = _enciphered(out[outside], half[outside], keys[:, outside])
  return out.astype(np.int64)


def _enciphered(values, half, keys) -> np.ndarray:
  mask = (np.uint64(1) << half) - np.uint64(1)
  left, right = values >> half, values & mask
  for key in keys:
    left, right = right, left ^ (_mixed(right + key) & mask)
  return (left << half) | right


def _mixed(values: np.ndarray) -> np.ndarray:
  """The finaliser of splitmix64: every bit depends on every bit."""
  values = values * np.uint64(0xBF58476D1CE4E5B9)
  values = (values ^ (values >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
  return values ^ (values >> np.uint64(32))
