"""Notices from outside the step that nothing moves any more: a dead peer, a stuck collective, a disk that does not answer.

Inside the process a thread waits for the beat that is due; stuck native code can keep the interpreter's lock and with it that
thread, and a stopped process has no threads that run.  So each beat also leaves in a file when the next one is due, for whoever
watches the process: `launch.supervise`, or a cluster's health check.
"""

import contextlib
import faulthandler
import os
import pathlib
import signal
import sys
import threading
import time

from motif_jax import endings

# How much longer than a step everything else may take: compiling, validation, samples, checkpoints.
SLOW = 10
STACKS = sys.__stderr__  # a real file: a notebook's or a test's stand-in has no number that the system knows
LOOKS = 20  # times within `stall_seconds` that the thread looks at the clock


class Watchdog:
  """A context in which a process that misses a beat prints the stacks of its threads and ends with `endings.STALLED`.

  SIGUSR1 prints the stacks too, and changes nothing.

  Args:
    stall_seconds: how long after a beat the next one is due; 0: nobody watches.
    heartbeat: the file that says until when all is well, in seconds since 1970; None: none.
  """

  def __init__(self, stall_seconds: float, heartbeat: str | None = None):
    self._patience, self._file = stall_seconds, heartbeat and pathlib.Path(heartbeat)
    self._over, self._was_slow = threading.Event(), False

  def __enter__(self):
    faulthandler.enable(STACKS)
    faulthandler.register(signal.SIGUSR1, STACKS, all_threads=True)
    self.beat(slow=True)
    if self._patience:
      self._write()  # a process that is stopped at once has said until when it would be well
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *_):
    self.beat(slow=True)  # for the way out of the interpreter, which may hang too
    if self._patience:
      self._write()
    self._over.set()

  def beat(self, *, slow: bool = False) -> None:
    """Says that all is well.  `slow`: what comes now is no step, or one that has to be compiled.

    The beat after a slow one allows as much: another process may still be at it, and the devices wait for each other.
    """
    self._due = time.monotonic() + self._patience * (SLOW if slow or self._was_slow else 1)
    self._was_slow = slow

  def _watch(self):
    while not self._over.wait(self._patience / LOOKS):
      if time.monotonic() > self._due:
        print(f"error: no step came to its end within {self._patience:g} s (train.stall_seconds; {SLOW} times as long where "
              "something is compiled or saved).  Where each thread is:", file=STACKS, flush=True)
        faulthandler.dump_traceback(STACKS, all_threads=True)
        os._exit(endings.STALLED)  # whatever would tidy up may wait for what does not come
      self._write()

  def _write(self):
    if self._file is None:
      return
    due = time.time() + self._due - time.monotonic() + self._patience / 4  # later than the thread: who is able to, ends by itself
    with contextlib.suppress(OSError):  # a full disk is no reason to stop watching
      written = self._file.with_name(self._file.name + ".new")
      written.write_text(f"{due:.0f}\n")
      os.replace(written, self._file)
