"""How a run ends, told by its exit status: what starts it again (`launch.supervise`, a scheduler) reads no log."""

DONE = 0
WRONG_INPUT = 1  # also any error that nobody foresaw
LOST_RECORDS = 65  # more records cannot be read than `data.lost_records` allows
DIVERGED = 70  # no finite loss, after as many rollbacks as `train.rollbacks` allows
DISK = 74  # full or read-only; the checkpoints of before are whole
INTERRUPTED = 75  # by SIGTERM or SIGINT: saved where it was
STALLED = 76  # no step came to its end in time; the stacks are in the log

# Of these another start would come to the same end; somebody has to do something first.
FINAL = (DONE, LOST_RECORDS, DIVERGED, DISK)


class Ending(Exception):
  """A run cannot go on, for a reason that has a status of its own; the message is for whoever reads the log."""

  def __init__(self, status: int, said: str):
    super().__init__(said)
    self.status = status
