"""One run per work directory: two would delete each other's checkpoints while they are written."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib
import socket

import jax

FILE = "lock"  # in the work directory; it stays, and says who held it last


@contextlib.contextmanager
def held(workdir: str | os.PathLike) -> Iterator[None]:
  """A context in which no other run can be in `workdir`; ValueError that says which one is.

  The first process holds the lock for all of its run.  The system lets go of it when that process ends, however it ends.
  """
  if jax.process_index() != 0:
    yield
    return
  path = pathlib.Path(workdir) / FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      file.seek(0)
      holder = file.read().strip() or "it does not say which"
      raise ValueError(f"another run is at work in {workdir} ({holder}); wait for it, end it, or use another folder.") from e
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield
