"""Arithmetic of stretches of time: what many events cover together, what only some of them cover, and what none does.

A stretch is a pair (start, stop) in nanoseconds, half-open.
"""

from collections.abc import Iterable, Sequence
import math
from typing import NamedTuple

Stretch = tuple[float, float]


class Gap(NamedTuple):
  """A stretch in which nothing runs, between the events number `before` and `after` of those given."""

  start: float
  stop: float
  before: int
  after: int

  @property
  def length(self) -> float:
    return self.stop - self.start


def union(stretches: Iterable[Stretch]) -> list[Stretch]:
  """The same time as disjoint stretches in order; empty ones are left out."""
  merged: list[Stretch] = []
  for start, stop in sorted(s for s in stretches if s[1] > s[0]):
    if merged and start <= merged[-1][1]:
      merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
    else:
      merged.append((start, stop))
  return merged


def length(stretches: Iterable[Stretch]) -> float:
  """The time that `stretches` cover together, counted once where they overlap."""
  return sum(stop - start for start, stop in union(stretches))


def outside(stretches: Iterable[Stretch], others: Iterable[Stretch]) -> list[Stretch]:
  """The time of `stretches` that none of `others` covers, as disjoint stretches in order."""
  left, covers, first = [], union(others), 0
  for start, stop in union(stretches):
    while first < len(covers) and covers[first][1] <= start:
      first += 1
    for cover_start, cover_stop in covers[first:]:
      if cover_start >= stop:
        break
      if cover_start > start:
        left.append((start, cover_start))
      start = cover_stop
    if start < stop:
      left.append((start, stop))
  return left


def gaps(stretches: Sequence[Stretch]) -> list[Gap]:
  """Where nothing runs between the first start and the last stop, the longest first."""
  found, last = [], None  # the event that has stopped last so far
  for i in sorted(range(len(stretches)), key=lambda i: stretches[i]):
    if last is not None and stretches[i][0] > stretches[last][1]:
      found.append(Gap(stretches[last][1], stretches[i][0], last, i))
    if last is None or stretches[i][1] > stretches[last][1]:
      last = i
  return sorted(found, key=lambda gap: -gap.length)


def own_times(stretches: Sequence[Stretch]) -> list[float]:
  """The time of each event of one thread or stream less that of the events inside it: together, what they all cover.

  Every moment belongs to the event that began last and still runs.  Events of a thread nest: a loop holds what it runs.
  """
  own, running, now = [0.0] * len(stretches), [], 0.0
  order = sorted(range(len(stretches)), key=lambda i: (stretches[i][0], -stretches[i][1]))
  for i, until in [*((i, stretches[i][0]) for i in order), (None, math.inf)]:
    while running and now < until:
      newest = running[-1]
      reached = min(stretches[newest][1], until)
      own[newest] += max(reached - now, 0)
      now = max(reached, now)
      if stretches[newest][1] <= now:
        running.pop()
    now = until
    running.append(i)
  return own
