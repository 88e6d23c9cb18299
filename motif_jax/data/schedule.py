"""The schedule of buckets: how many rows a batch of each has, and which bucket each step takes.

Computed from the config and the counts of a data set before anything is read, the same in every process, so no rank waits for
another: `python -m launch.schedule` prints it.
"""

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Sequence

import numpy as np

from motif_jax.config import BucketConfig, DataConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data.dataset import Dataset
from motif_jax.data.order import dealt

GOLDEN = (5**0.5 - 1) / 2
KINDS = {"image": lambda bucket: bucket.frames == 1, "video": lambda bucket: bucket.frames > 1}


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What each step takes, as a function of the step without state.  Buckets go by their number in the data set."""

  rows: tuple[int, ...]  # of the global batch of each bucket
  shares: tuple[float, ...]  # of each bucket: its steps in proportion to those of the others that take the same turns
  pattern: tuple[tuple[int, ...], ...]  # repeated for ever: the buckets that take turns in a step
  pictures: tuple[float, ...]  # of each bucket: the share of its batches that start from a picture whose tokens they hold

  def at(self, step: int) -> tuple[int, int]:
    """(the bucket of a step, how many batches of it come before)."""
    cycle, slot = divmod(step, len(self.pattern))
    group = self.pattern[slot]
    turns = cycle * self.pattern.count(group) + self.pattern[:slot].count(group)
    before, chosen = dealt([self.shares[number] for number in group], turns)
    return group[chosen], int(before[chosen])

  def planned(self, steps: int) -> np.ndarray:
    """How many of the first `steps` steps take each bucket."""
    cycles, rest = divmod(steps, len(self.pattern))
    planned = np.zeros(len(self.rows), np.int64)
    for group in set(self.pattern):
      turns = cycles * self.pattern.count(group) + self.pattern[:rest].count(group)
      planned[list(group)] = dealt([self.shares[number] for number in group], turns)[0]
    return planned

  def pictured(self, number: int, before):
    """Whether the batches of a bucket that have so many `before` them start from a picture whose tokens they hold.

    Multiples of the golden ratio fall evenly everywhere modulo 1, so that no rhythm of the steps, such as telemetry's, meets
    batches of one kind alone.
    """
    return np.asarray(before) * GOLDEN % 1 < self.pictures[number]


def make_schedule(cfg: DataConfig, dataset: Dataset, counts: Sequence[int], *, patch: tuple[int, int, int]) -> Schedule:
  """The `Schedule` of a data set with `counts` records to train on in each part, for a model whose tokens are patches of latents.

  Without weights, buckets have steps in proportion to their batches, so that all data is seen equally often; in a mixture, all
  data of one data set, and each data set as its weight says.
  """
  tokens = [math.prod(size // p for size, p in zip(part.spec.grid, patch)) for part in dataset.meta.parts]
  rows = tuple(buckets_lib.rows(cfg, part.bucket, count) for part, count in zip(dataset.meta.parts, tokens))
  named = [part.bucket for part in dataset.meta.parts]
  samples, origins = np.asarray(counts, np.float64), np.asarray(dataset.origins)
  for number, (_, weight) in enumerate(cfg.mixture):
    samples[origins == number] *= weight / samples[origins == number].sum()
  shares = _weighted(cfg.weights, named, samples / np.asarray(rows))
  groups = [selected("data.pattern", selector, named) for selector in cfg.pattern] or [range(len(named))]
  pattern = tuple(tuple(number for number in group if shares[number] > 0) for group in groups)
  _check_pattern(cfg, named, shares, pattern)
  few = [f"{buckets_lib.name(bucket)} has {count} of {batch}"
         for bucket, count, batch, share in zip(named, counts, rows, shares) if share > 0 and count < batch]
  if few:
    raise ValueError(f"data.batch_size is {cfg.batch_size}, and these buckets have fewer training clips than a batch has rows: "
                     f"{', '.join(few)} (data.validation {cfg.validation} is held out); lower data.batch_size or "
                     "data.batch_tokens, encode more clips, or give these buckets weight 0 in data.weights.")
  pictures = tuple(cfg.image_to_video if cfg.image_tokens and bucket.frames > 1 else 0.0 for bucket in named)
  return Schedule(rows, tuple(map(float, shares)), pattern, pictures)


def selected(key: str, selector: str, named: Sequence[BucketConfig]) -> tuple[int, ...]:
  """The numbers of the buckets that `selector` means: "image", "video", or names with wildcards such as "33x*"."""
  names = [buckets_lib.name(bucket) for bucket in named]
  matches = KINDS.get(selector, lambda bucket: fnmatch.fnmatchcase(buckets_lib.name(bucket), selector))
  found = tuple(number for number, bucket in enumerate(named) if matches(bucket))
  if not found:
    close = difflib.get_close_matches(selector, [*KINDS, *names], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?  The" if close else "the"
    raise ValueError(f"{key} names {selector!r}, but no bucket of the data set is called so; {hint} buckets are "
                     f"{', '.join(dict.fromkeys(names))}, and 'image', 'video' or wildcards name several.")
  return found


def _weighted(weights, named, epoch) -> np.ndarray:
  """The share of steps of each bucket; `epoch`: in proportion to the steps that it takes to see each as often as the others."""
  if not weights:
    return epoch / epoch.sum()
  shares, by = np.zeros(len(named)), {}
  for selector, weight in weights:
    group = list(selected("data.weights", selector, named))
    for number in group:
      if number in by:
        raise ValueError(f"data.weights gives bucket {buckets_lib.name(named[number])} a weight twice, by {by[number]!r} and by "
                         f"{selector!r}; let each bucket be named once.")
      by[number] = selector
    shares[group] = weight * epoch[group] / max(epoch[group].sum(), 1e-300)
  if missing := [buckets_lib.name(bucket) for number, bucket in enumerate(named) if number not in by]:
    raise ValueError(f"data.weights says nothing of the buckets {', '.join(dict.fromkeys(missing))}; give them a weight, or 0 to "
                     "leave them out.")
  return shares / shares.sum()


def _check_pattern(cfg, named, shares, pattern) -> None:
  taken = {}
  for selector, group in zip(cfg.pattern, pattern):
    if not group:
      raise ValueError(f"data.pattern names {selector!r}, whose buckets all have weight 0 in data.weights.")
    for number in group:
      if taken.setdefault(number, group) != group:
        raise ValueError(f"data.pattern names bucket {buckets_lib.name(named[number])} in two ways, by {selector!r} and with "
                         "other buckets; let each bucket stand in one kind of step.")
  left = [buckets_lib.name(bucket) for number, bucket in enumerate(named) if shares[number] > 0 and
          not any(number in group for group in pattern)]
  if left:
    raise ValueError(f"data.pattern {cfg.pattern} has no step for the buckets {', '.join(dict.fromkeys(left))}; add one, or give "
                     "them weight 0 in data.weights.")
