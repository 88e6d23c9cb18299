"""Checkpoints that are not what was written: all processes leave out the same ones, say so, and put them out of the way."""

import itertools
import pathlib

import jax
from jax.experimental import multihost_utils
import numpy as np

FOLDER = "damaged"  # in the work directory: where steps go that a run could not go on from
ELSEWHERE = ["another process found a fault in it"]


def agreed(wrong: list[str]) -> list[str]:
  """`wrong`, or where it is empty and another process found something, that it did: all processes leave out the same steps."""
  if jax.process_count() == 1 or not multihost_utils.process_allgather(np.array(bool(wrong))).any():
    return wrong
  return wrong or ELSEWHERE


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
