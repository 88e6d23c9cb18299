"""How much of a long-tailed data set an epoch uses, by ways of dealing it to ranks: a simulation, which reads nothing.

The problem is the report's (recipe.md section 5): clips of many (frames x resolution) buckets lie in thousands of tar shards, and
training is synchronous, all ranks in the same bucket.  Where whole shards are dealt to ranks, the rank with the fewest clips of a
bucket ends it for all.  Ours draws each global batch from the bucket's own order, which `pipeline` runs here as in training.
"""

import dataclasses
import time
from typing import NamedTuple

import numpy as np

from motif_jax.config import BucketConfig, DataConfig
from motif_jax.data import pipeline
from motif_jax.data.schedule import Schedule

SIZES = ((144, 256), (256, 144), (352, 640), (640, 352), (480, 832), (832, 480), (736, 1280), (1280, 736))
BUCKETS = tuple(BucketConfig(frames, *size) for frames in (1, 33, 65, 121) for size in SIZES)


@dataclasses.dataclass(frozen=True)
class Problem:
  """Clips in tar shards, as a crawl leaves them: a shard holds what one kind of source has, so few buckets and many of one."""

  clips: np.ndarray  # (shards, buckets)
  ranks: int


class Used(NamedTuple):
  """Of a way to deal the data."""

  name: str
  share: float  # of all clips, in an epoch
  milliseconds: float  # to find the records of a step; 0 where they are dealt beforehand
  again: float  # reads beyond one per clip, as a share of the clips


def make_problem(*, ranks: int = 64, shards: int = 4000, per_shard: float = 250, spread: float = 1.5, mixing: float = 0.01,
                 seed: int = 0) -> Problem:
  """A long-tailed `Problem`: buckets by a log-normal law of deviation `spread`, sizes of shards by one of 0.5, and in each shard
  a Dirichlet draw of the buckets' shares: the smaller `mixing`, the fewer of them in a shard."""
  rng = np.random.default_rng(seed)
  popular = rng.lognormal(0, spread, len(BUCKETS))
  sizes = rng.lognormal(np.log(per_shard), 0.5, shards).astype(int) + 1
  shares = rng.dirichlet(mixing * len(BUCKETS) * popular / popular.sum() + 1e-3, shards)
  return Problem(np.stack([rng.multinomial(size, share) for size, share in zip(sizes, shares)]), ranks)


def dealt(problem: Problem) -> np.ndarray:
  """The rank of each shard, dealt in turn."""
  return np.arange(len(problem.clips)) % problem.ranks


def greedy(problem: Problem) -> np.ndarray:
  """The rank of each shard, large ones first, each to the rank whose buckets it leaves most even."""
  goal = problem.clips.sum(0) / problem.ranks
  held, rank_of = np.zeros((problem.ranks, len(goal))), np.zeros(len(problem.clips), int)
  for shard in np.argsort(-problem.clips.sum(1)):
    # How far beyond its share of each bucket a rank would be; a rare bucket weighs as much as a common one.
    rank = np.argmin((((held + problem.clips[shard]) / np.maximum(goal, 1)) ** 2 - (held / np.maximum(goal, 1)) ** 2).sum(1))
    rank_of[shard], held[rank] = rank, held[rank] + problem.clips[shard]
  return rank_of


def share_used(problem: Problem, rank_of: np.ndarray) -> float:
  """The share of clips that synchronous ranks use until, in each bucket, one of them has no more."""
  return float(_by_rank(problem.clips, rank_of, problem.ranks).min(0).sum() * problem.ranks / problem.clips.sum())


def _by_rank(clips, rank_of, ranks):
  held = np.zeros((ranks, clips.shape[1]), clips.dtype)
  np.add.at(held, rank_of, clips)
  return held


def ours(problem: Problem, cfg: DataConfig, *, per_shard: int = 256) -> Used:
  """The epoch of a run of `cfg` over the same clips, encoded into a folder per bucket with shards of `per_shard` records.

  Only the orders run, of every row of every step: what comes is counted, and which rank reads it from which lane.
  """
  counts = problem.clips.sum(0)
  counts = counts[counts >= cfg.batch_size].tolist()  # `make_schedule` refuses those smaller than a batch: counted as not used
  every = range(len(counts))
  schedule = Schedule((cfg.batch_size,) * len(counts), tuple(map(float, counts)), (tuple(every),), pictures=(0.0,) * len(counts))
  shards = [[min(per_shard, count - first) for first in range(0, count, per_shard)] for count in counts]
  streams = tuple(pipeline.stream_of(cfg, lengths, (0, number)) for number, lengths in enumerate(shards))
  order = pipeline.Order(schedule, streams, seed=0)
  seen = [np.zeros(count, bool) for count in counts]
  readers = [np.zeros((stream.lanes, problem.ranks), bool) for stream in streams]
  rank = np.arange(cfg.batch_size) * problem.ranks // cfg.batch_size
  steps, seconds = round(sum(counts) / cfg.batch_size), 0.0
  for step in range(steps):
    started = time.perf_counter()
    number, rows = order.rows(step)
    places = streams[number].places(rows)
    seconds += time.perf_counter() - started
    seen[number][places] = True
    readers[number][rows % streams[number].lanes, rank] = True
  again = 0 if cfg.order == "random" else sum((r.sum(1).mean() - 1) * count for r, count in zip(readers, counts))
  total = problem.clips.sum()
  return Used(cfg.order, float(sum(s.sum() for s in seen) / total), 1e3 * seconds / steps, float(again / total))
