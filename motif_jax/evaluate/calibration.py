"""Step caching calibrated: which steps to leave out, found on exact trajectories, and how far from exact sampling that leads."""

from collections.abc import Sequence

import numpy as np

from motif_jax import sample, stepwise
from motif_jax.evaluate.subject import Subject, difference, frames, latents, psnr
from motif_jax.flow import caching


def products_of(subject: Subject) -> np.ndarray:
  """Inner products (steps, steps) of the velocities of exact walks, summed over the prompts."""
  total, seen = np.zeros((subject.cfg.sample.steps,) * 2), []

  def watch(step, indices):
    seen.append(np.asarray(step.velocity)[np.unique(indices, return_index=True)[1]])  # each prompt once
    if step.number == step.of:
      total[:] += caching.gram(np.stack(seen))
      seen.clear()

  latents(subject, stepwise.watched(watch))
  return total


def schedules(subject: Subject, speedups: Sequence[float], *, order: int) -> list[dict]:
  """For each speed-up: which steps to leave out, as few as it takes, by exact walks of the subject."""
  products = products_of(subject.cached((), order=order))
  times = sample.times_of(subject.cfg, subject.grid, picture=False)
  found = []
  for speedup in speedups:
    evaluations = max(1, round(subject.cfg.sample.steps / speedup))
    computed, threshold = caching.schedule_of(products, times, evaluations=evaluations, order=order)
    found.append(dict(speedup=speedup, skip=np.flatnonzero(~computed).tolist(), order=order, computed=int(computed.sum()),
                      steps=len(computed), threshold=threshold))
  return found


def errors(subject: Subject, schedule: dict, exact: np.ndarray) -> dict:
  """What a schedule costs: relative error of the latents against `exact` ones, PSNR of the frames, and scores of both."""
  made = latents(subject.cached(schedule["skip"], order=schedule["order"]))
  shown, exactly = frames(subject, made), frames(subject, exact)
  said = dict(latents=difference(made, exact), psnr=psnr(shown, exactly), prompts=len(subject.prompts))
  return said | (dict(scores=subject.judge(shown), exact_scores=subject.judge(exactly)) if subject.judge else {})
