"""Stage after stage, each from the last one's checkpoint, going on wherever it was stopped.

A stage starts from the raw weights, their average and the optimizer's moments of the stage before, each from its own: the loss
goes on where it was, and before the first step so does what the average gives.  Steps, and with them schedule, warm-up and the
age of the average, start again: from then on it forgets what it was (`average`).  New parameters start as they are initialised,
their average with them.  What has ended stands in curriculum.json.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import time
from typing import NamedTuple

import jax

from motif_jax.config import Config
from motif_jax.data.videos import replacing
from motif_jax.train import loop, partial
from motif_jax.train.report import say
from motif_jax.train.state import TrainState

FILE = "curriculum.json"  # in the work directory of all stages
# What may have another shape in the checkpoint of the stage before, and is then new.
RENEW = (r"model/text_embed/up/kernel", r"projector/.*")


class Stage(NamedTuple):
  """A stage to run, in a folder of its name."""

  name: str
  cfg: Config


def walk(stages: Sequence[Stage], workdir: str, *, start: str | None = None, prepare: Callable = loop.prepare) -> bool:
  """Whether all `stages` came to their end; False after an interrupt, from which the same call goes on.

  Args:
    start: the checkpoint that the first stage starts from; None: random weights.
    prepare: (cfg, folder) -> `loop.Job`.
  """
  folder = pathlib.Path(workdir)
  for stage in stages:
    ended = read(folder)
    if stage.name not in ended:
      say(f"== {stage.name}")
      job = prepare(stage.cfg, str(folder / stage.name))
      state = loop.run(job if start is None else dataclasses.replace(job, start=functools.partial(from_checkpoint, start, job)))
      if int(state.step) < stage.cfg.train.steps:
        return False
      _write(folder, ended | {stage.name: dict(steps=stage.cfg.train.steps, ended=time.strftime("%Y-%m-%d %H:%M:%S"))})
    start = str(folder / stage.name)
  return True


def read(folder: pathlib.Path) -> dict[str, dict]:
  """Stage -> what is known of its end, of all stages that have ended in `folder`."""
  path = pathlib.Path(folder) / FILE
  return json.loads(path.read_text()) if path.exists() else {}


def _write(folder, ended):
  if jax.process_index() == 0:
    with replacing(folder / FILE) as temporary:
      temporary.write_text(json.dumps(ended, indent=1))


def from_checkpoint(path: str, job: loop.Job) -> tuple[TrainState, partial.Changes]:
  """(the state that a stage starts from, what of the checkpoint that `path` names is in it)."""
  return partial.restore_partial(path, job.cfg, job.mesh, job.optimizer, renew=RENEW)
