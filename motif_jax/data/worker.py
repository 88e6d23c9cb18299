"""Processes that run functions for another one, each within a time limit: what hangs or crashes there costs a restart.

`multiprocessing` would start the whole program again in each of its processes, encoders and compiler included; this one imports
what it is asked to run and nothing else.  It is what `python -m motif_jax.data.worker FILE_DESCRIPTOR PARENT` runs.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


TRIES = 2  # a process may be the victim of its machine: only what fails twice has failed


class Failed(Exception):
  """The process did not answer in time, died, or met an error that nobody expected; `kind` is one of few, for counting."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind


class Worker:
  """Runs one function at a time in a process of its own, which starts when it is first needed."""

  def __init__(self):
    self._process = self._pipe = None

  def call(self, function: Callable, *arguments, limit: float) -> Any:
    """What `function`, of some module, returns for `arguments`; raises `Failed`, after `limit` seconds at the latest."""
    if self._process is None:
      self._start()
    try:
      self._pipe.send((function, arguments))
      if not self._pipe.poll(limit):
        self.close()
        raise Failed("took too long", f"no answer within {limit:g} s")
      good, answer = self._pipe.recv()
    except (EOFError, OSError) as e:
      code = self.close()
      raise Failed("crashed", f"its process ended with exit code {code}") from e
    if not good:
      raise Failed("failed", answer)
    return answer

  def close(self) -> int | None:
    """Ends the process; its exit code.  A later `call` starts another one."""
    if self._process is None:
      return None
    self._pipe.close()
    try:
      self._process.wait(timeout=0.1)  # an idle one leaves, and one that crashed has its own exit code
    except subprocess.TimeoutExpired:
      self._process.kill()
    code, self._process, self._pipe = self._process.wait(), None, None
    return code

  def kill(self) -> None:
    """Ends the process at once; may be called while another thread waits for its answer, which then is `Failed`."""
    if process := self._process:
      process.kill()

  def _start(self):
    self._pipe, theirs = multiprocessing.Pipe()
    with theirs:
      self._process = subprocess.Popen(
          [sys.executable, "-m", "motif_jax.data.worker", str(theirs.fileno()), str(os.getpid())],
          pass_fds=[theirs.fileno()],
          env=os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, ["", *sys.path]))), stdin=subprocess.DEVNULL,
          start_new_session=True)  # Control-C is for the parent, which ends its workers


class Workers:
  """`count` such processes, to be closed after use.  A function gets `limit` seconds, and a second try.

  With none, functions run in a thread of this process, without a limit: for tests, and where nothing hangs.
  """

  def __init__(self, count: int, *, limit: float):
    self._limit, self._closed = limit, False
    self._own, self._workers = threading.local(), []
    self._submit = self._run if count else lambda function, *arguments: function(*arguments)
    self._pool = concurrent.futures.ThreadPoolExecutor(max(1, count))  # a thread waits for each process

  def submit(self, function: Callable, *arguments) -> concurrent.futures.Future:
    """The future result of `function`, of some module; it raises `Failed` where there is none."""
    return self._pool.submit(self._submit, function, *arguments)

  def close(self) -> None:
    """Ends threads and processes; what waits is not begun any more."""
    self._closed = True
    for worker in self._workers:
      worker.kill()
    self._pool.shutdown(cancel_futures=True)
    for worker in self._workers:
      worker.close()

  def _run(self, function, *arguments):
    if not hasattr(self._own, "worker"):
      self._own.worker = Worker()
      self._workers.append(self._own.worker)
    for _ in range(TRIES - 1):
      try:
        return self._own.worker.call(function, *arguments, limit=self._limit)
      except Failed:
        if self._closed:
          raise
    return self._own.worker.call(function, *arguments, limit=self._limit)


def serve(pipe: Connection) -> None:
  """Answers until the other end is closed."""
  with contextlib.suppress(EOFError, ConnectionError):
    while True:
      function, arguments = pipe.recv()
      try:
        answer = (True, function(*arguments))
      except Exception as e:  # whatever it is: the parent decides what becomes of it
        answer = (False, f"{type(e).__name__}: {e}")
      pipe.send(answer)


def leave_with(parent: int) -> None:
  """Ends this process when `parent` has ended, whatever it is busy with."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)


if __name__ == "__main__":
  pipe, parent = map(int, sys.argv[1:])
  threading.Thread(target=leave_with, args=(parent,), daemon=True).start()  # it may have ended before we came here
  serve(Connection(pipe))
