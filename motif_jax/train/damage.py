"""Checkpoints that are not whole: all processes leave out the same damaged ones, say so and put them out of the way; what saves
left that were cut off is cleared.
"""

import errno
import itertools
import pathlib
import shutil
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

FOLDER = "damaged"  # in the work directory: where steps go that a run could not go on from
ELSEWHERE = ["another process found a fault in it"]
UNFINISHED = "*.orbax-checkpoint-tmp*"  # folders of saves that did not come to their end
STILL_WRITTEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)  # what deleting a folder meets while somebody writes in it
QUIET, PATIENCE = 1.0, 60.0  # seconds: with nothing new, nobody writes any more; a disk's writes are over by then


def agreed(wrong: list[str]) -> list[str]:
  """`wrong`, or where it is empty and another process found something, that it did: all processes leave out the same steps."""
  if jax.process_count() == 1 or not multihost_utils.process_allgather(np.array(bool(wrong))).any():
    return wrong
  return wrong or ELSEWHERE


def clear_unfinished(folder: pathlib.Path) -> None:
  """Deletes on the first process what saves left that were cut off, and waits until nobody writes there any more.

  A save that failed leaves writes behind, in threads of the storage library that nobody can wait for.  Once a full disk has
  room, and the run goes on in the same process, they bring back files that are being deleted.  OSError after 60 s of that.
  """
  ends = time.monotonic() + PATIENCE
  while jax.process_index() == 0 and (found := list(folder.glob(UNFINISHED))):
    for path in found:
      try:
        shutil.rmtree(path)
      except OSError as e:
        if e.errno not in STILL_WRITTEN or time.monotonic() > ends:
          raise
    time.sleep(QUIET)


def set_aside(manager, steps: list[int]) -> None:
  """Moves damaged steps out of the way of the run that will save them anew."""
  if not steps:
    return
  folder = pathlib.Path(manager.directory)
  if jax.process_index() == 0:
    aside = folder.parent / FOLDER
    aside.mkdir(exist_ok=True)
    for step in steps:
      names = (aside / name for name in itertools.chain([str(step)], (f"{step}.{i}" for i in itertools.count(1))))
      (folder / str(step)).rename(next(name for name in names if not name.exists()))
  multihost_utils.sync_global_devices("damaged checkpoints are set aside")
  manager.reload()


def say(folder: pathlib.Path, wrong: list[str]) -> None:
  """Prints what is wrong with a step, on the first process and on those that found it."""
  if jax.process_index() == 0 or wrong != ELSEWHERE:
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    print(f"checkpoint {folder} is damaged and is left out: {'; '.join(wrong[:3])}{more}", flush=True)
