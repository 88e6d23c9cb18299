"""Which programs of the network a run compiles, said before it starts: every plan, bucket and variant of the step, and the rest.

A program is one jitted function at one set of shapes, and takes the compiler seconds to minutes; nothing else in a run waits for
the compiler, but for dozens of small ones at its start (keys, the first state, checkpoints) and the frozen encoders of prompts.
"""

import collections
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from motif_jax.config import BucketConfig, Config
from motif_jax.data import buckets
from motif_jax.data.dataset import Dataset
from motif_jax.data.pipeline import split_indices
from motif_jax.data.schedule import make_schedule
from motif_jax.train.step import plan_at

STEP, MEASURED, PICTURED = "training step", "training step with telemetry", " from a picture"


class Program(NamedTuple):
  """One program; `since` is the first step that may need it."""

  name: str
  bucket: BucketConfig
  since: int


def of_run(cfg: Config, dataset: Dataset, held_out: Iterable[BucketConfig], *, start: int = 0) -> list[Program]:
  """The programs of a run that goes on from step `start`; `held_out`: the buckets of its validation batches."""
  validated = [Program("validation", bucket, start) for bucket in dict.fromkeys(held_out)]
  sampled = [Program(f"{what} of {whose}", cfg.sample.bucket, start)
             for whose, wanted in (("samples", cfg.sample.prompts), ("the judge", cfg.train.judge)) if wanted
             for what in ("latents", "frames")]  # those of the judge may turn out to be those of the samples
  return of_steps(cfg, dataset, start=start) + validated + sampled


def of_steps(cfg: Config, dataset: Dataset, *, start: int = 0) -> list[Program]:
  """The training steps among them: of each plan, those buckets that the schedule has steps for while it holds."""
  counts = [len(found) for found in split_indices(dataset, cfg.data.validation)[0]]
  schedule = make_schedule(cfg.data, dataset, counts, patch=cfg.model.patch)
  every, found = cfg.train.telemetry_every, {}
  for first, stop in spans(cfg, start):
    before, after = schedule.planned(first), schedule.planned(stop)
    closely = map(schedule.at, range(first + (-first - 1) % every, stop, every) if every else ())
    measured = collections.Counter((number, bool(schedule.pictured(number, turn))) for number, turn in closely)
    for number, part in enumerate(dataset.meta.parts):
      pictured = schedule.pictured(number, np.arange(before[number], after[number]))
      planned = {True: pictured.sum(), False: (~pictured).sum()}
      for name, picture in itertools.product((STEP, MEASURED), planned):
        if measured[number, picture] if name == MEASURED else planned[picture] - measured[number, picture]:
          made = Program(name + PICTURED * picture, part.bucket, first)
          # Two data sets of a mixture may have the same bucket, and batches of one shape.
          found.setdefault((plan_at(cfg, first), schedule.rows[number], made.bucket, made.name), made)
  return sorted(found.values(), key=lambda program: (program.since, program.name, program.bucket.frames))


def spans(cfg: Config, start: int = 0) -> list[tuple[int, int]]:
  """[first, stop) of the steps of each plan, from step `start` to the last."""
  ends = {last for last in (cfg.route.last_step, cfg.alignment.last_step) if start < last < cfg.train.steps}
  edges = sorted({start, *ends, cfg.train.steps})
  return [(first, stop) for first, stop in zip(edges, edges[1:])]


def line(programs: list[Program]) -> str:
  """One line for a log: how many of each kind, of which buckets, and when a new one is needed later on."""
  kinds = collections.Counter(program.name for program in programs)
  first = min((program.since for program in programs), default=0)
  later = sorted({program.since for program in programs if program.since > first})
  return (f"programs: {len(programs)} to compile: " + ", ".join(f"{count} x {name}" for name, count in kinds.items())
          + "; buckets " + ", ".join(buckets.name(bucket) for bucket in dict.fromkeys(p.bucket for p in programs))
          + (f"; new ones at step {', '.join(map(str, later))}" if later else ""))
