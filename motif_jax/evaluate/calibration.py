"""Step caching calibrated: which steps to leave out, found on exact trajectories, and how far from exact sampling that leads."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from motif_jax import sample, stepwise
from motif_jax.config import CacheConfig, Config
from motif_jax.flow import caching


class Subject(NamedTuple):
  """What is measured: a model with its encoders, and prompts of given numbers."""

  params: dict
  cfg: Config
  codec: object
  text_encoder: object
  prompts: Sequence[str]
  key: jax.Array
  batch: int
  judge: Callable | None = None  # frames of all prompts -> scores by name

  @property
  def grid(self) -> tuple[int, int, int]:
    """(F, H, W) of the latents."""
    return sample.latent_grid(self.cfg, self.codec, self.cfg.sample.bucket)

  def sampled(self, **changes) -> "Subject":
    """The same with these fields of `config.sample` changed."""
    return self._replace(cfg=dataclasses.replace(self.cfg, sample=dataclasses.replace(self.cfg.sample, **changes)))

  def cached(self, skip: Sequence[int], *, order: int) -> "Subject":
    """The same with the velocities of these steps foretold."""
    return self.sampled(cache=CacheConfig(tuple(map(int, skip)), order))


def latents(subject: Subject, make: Callable = sample.generate, **given) -> np.ndarray:
  """Latents (N, F, H, W, C) of all prompts, made `subject.batch` at once; `given` are arrays (N, ...) that `make` also takes."""
  tokens = subject.cfg.data.text_tokens
  empty = sample.encode_prompts(subject.text_encoder, [""], tokens)
  made = []
  for start in range(0, len(subject.prompts), subject.batch):
    rows = slice(start, start + subject.batch)
    texts = sample.encode_prompts(subject.text_encoder, subject.prompts[rows], tokens)
    indices = np.arange(len(subject.prompts))[rows]
    made.append(np.asarray(make(subject.params, subject.cfg, *texts, *empty, key=subject.key, grid=subject.grid, indices=indices,
                                **{name: x[rows] for name, x in given.items()})))
  return np.concatenate(made)


def frames(subject: Subject, made: np.ndarray) -> np.ndarray:
  """Frames (N, F, H, W, 3) uint8 of latents (N, F, H, W, C)."""
  parts = [made[start:start + subject.batch] for start in range(0, len(made), subject.batch)]
  return np.concatenate([np.asarray(sample.decode(subject.codec, part)) for part in parts])


def difference(made: np.ndarray, exact: np.ndarray) -> float:
  """Norm of `made` - `exact` as a share of that of `exact`."""
  return float(np.linalg.norm(made - exact) / np.linalg.norm(exact))


def psnr(made: np.ndarray, exact: np.ndarray) -> float:
  """Peak signal-to-noise ratio of uint8 frames, in dB, of all together."""
  error = np.mean(np.square(made.astype(np.float64) - exact))
  return float(10 * np.log10(255**2 / max(error, 1e-9)))


def products_of(subject: Subject) -> np.ndarray:
  """Inner products (steps, steps) of the velocities of exact walks, summed over the prompts."""
  total, seen = np.zeros((subject.cfg.sample.steps,) * 2), []

  def watch(step, indices):
    seen.append(np.asarray(step.velocity))
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
