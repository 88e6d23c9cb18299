"""How a run ends, told by its exit status: what starts it again (`launch.supervise`, a scheduler) reads no log."""

import contextlib
import os
import traceback
from collections.abc import Iterator

DONE = 0
WRONG_INPUT = 1  # also any error that nobody foresaw
LOST_RECORDS = 65  # more records cannot be read than `data.lost_records` allows
DIVERGED = 70  # no finite loss, after as many rollbacks as `train.rollbacks` allows
DISK = 74  # full or read-only; the checkpoints of before are whole
INTERRUPTED = 75  # by SIGTERM or SIGINT: saved where it was
STALLED = 76  # no step came to its end in time; the stacks are in the log

# Of these another start would come to the same end; somebody has to do something first.
FINAL = (DONE, LOST_RECORDS, DIVERGED, DISK)

DISK_SAYS = ("No space left on device", "Disk quota exceeded", "Read-only file system")


class Ending(Exception):
  """A run cannot go on, for a reason that has a status of its own; the message is for whoever reads the log."""

  def __init__(self, status: int, said: str):
    super().__init__(status, said)  # both: it may come from a worker process
    self.status = status

  def __str__(self) -> str:
    return self.args[1]


@contextlib.contextmanager
def of_disk(folder: str | os.PathLike) -> Iterator[None]:
  """A context that turns what a full or read-only disk leads to, by whichever way, into an `Ending`.

  Libraries write in threads and wrap what the system said in errors of their own, so it is the words that are looked for.
  """
  try:
    yield
  except Exception as e:
    said = "".join(traceback.format_exception(e))
    if isinstance(e, Ending) or not any(words in said for words in DISK_SAYS):
      raise
    words = next(words for words in DISK_SAYS if words in said)
    raise Ending(DISK, f"cannot write in {folder}: {words}.  Its finished checkpoints are whole; make room, and start "
                 "again.") from e
