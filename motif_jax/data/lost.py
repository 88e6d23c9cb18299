"""Records that cannot be read: the next of its bucket takes the place of each, and the order of all others stays.

Files on many disks for a month: a few records will be damaged or gone.  Which record replaces one depends on the files alone, so
a run that resumes, or has other workers, sees the same batches.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from motif_jax import endings

KEY = "lost"  # of a batch on its way from a loader: what could not be read for it, ((name, why), ...)
# What array_record, tfds and the file system make of bytes that are not there or not what they were.
UNREADABLE = (RuntimeError, OSError, ValueError, IndexError, KeyError)


def read(fetch: Callable[[int], dict], place: int, *, count: int, name: str) -> tuple[dict, list[tuple[str, str]]]:
  """(the record at `place` or the next of `count` that can be read, (name, why) of those that cannot)."""
  lost = []
  for candidate in ((place + i) % count for i in range(count)):
    try:
      return fetch(candidate), lost
    except UNREADABLE as e:
      lost.append((f"{name}, training record {candidate}", f"{type(e).__name__}: {e}"[:300]))
  raise endings.Ending(endings.LOST_RECORDS, f"none of the {count} records of {name} can be read; the first: {lost[0][1]}")


class Watched:
  """Batches, each rid of its KEY; `lost` grows by what stood there, and too much of it ends the run.

  Args:
    batches: an iterator of (bucket, batch) with `close`.
    lost: name -> why, of the records that this process could not read so far.
    allowed: how many there may be.
  """

  def __init__(self, batches: Iterator, lost: dict[str, str], *, allowed: int):
    self._batches, self._lost, self._allowed = batches, lost, allowed

  def __iter__(self) -> "Watched":
    return self

  def __next__(self) -> tuple[object, dict[str, np.ndarray]]:
    bucket, batch = next(self._batches)
    self._note(batch.pop(KEY))
    return bucket, batch

  def close(self) -> None:
    """Ends the workers."""
    self._batches.close()

  def _note(self, lost: Sequence[tuple[str, str]]) -> None:
    for name, why in lost:
      if name not in self._lost:
        self._lost[name] = why
        print(f"data: {name} cannot be read, the next takes its place ({why})", flush=True)
    if len(self._lost) > self._allowed:
      listed = "\n".join(f"  - {name}: {why}" for name, why in self._lost.items())
      raise endings.Ending(endings.LOST_RECORDS, f"{len(self._lost)} records cannot be read, data.lost_records allows "
                           f"{self._allowed}:\n{listed}\nRepair or encode them again, or raise data.lost_records.")
