"""Orders of records and of buckets as pure functions of integers: any position is found without those before it.

Nothing here knows files or configs, and nothing of the length of the data is stored.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_ROUNDS = 6


@dataclasses.dataclass(frozen=True)
class Random:
  """The endless stream of a bucket's records, one permutation of all of them after another."""

  count: int  # records
  seed: tuple[int, ...]

  def places(self, rows: np.ndarray) -> np.ndarray:
    """The places (B,), in range(count), of the stream's rows (B,): each comes once before any comes twice."""
    epochs, turns = np.divmod(rows, self.count)
    found = np.empty(len(rows), np.int64)
    for epoch in np.unique(epochs):
      found[epochs == epoch] = shuffled(turns[epochs == epoch], self.count, seed=(*self.seed, int(epoch)))
    return found


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
  """Where each of `places` (B,) stands in a pseudo-random permutation of range(count).

  A Feistel cipher on the smallest domain 4**n that holds `count`; what falls outside is enciphered again, which keeps it a
  permutation.  (`grain.experimental.index_shuffle` does the same on a domain of at least 2**16: 1 ms a record where there are
  few.)
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
