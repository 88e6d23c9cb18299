"""What settings of sampling do to what comes out: distances to exact solutions and to exact sampling, and scores."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from motif_jax import sample, stepwise
from motif_jax.data import extract
from motif_jax.evaluate import calibration
from motif_jax.evaluate.subject import Subject, difference, frames, latents, psnr
from motif_jax.flow import samplers

SOLUTION = dict(sampler="heun", steps=500)
STEP_EVALUATIONS = {"heun": 2}  # of the velocity; all other samplers make one


def solution(subject: Subject) -> np.ndarray:
  """Latents at the end of the trajectories, by many steps of a sampler of second order."""
  return latents(subject.sampled(**SOLUTION))


def solvers(subject: Subject, evaluations: Sequence[int], *, exact: np.ndarray) -> list[dict]:
  """For each sampler and number of evaluations of the velocity: distance of latents and frames to the `exact` solution."""
  shown, rows = frames(subject, exact), []
  for sampler in samplers.SAMPLERS:
    for count in evaluations:
      steps = count // STEP_EVALUATIONS.get(sampler, 1)
      made = latents(subject.sampled(sampler=sampler, steps=steps), stepwise.watched(lambda *_: None))  # compiles one step, once
      rows.append(dict(sampler=sampler, steps=steps, evaluations=steps * STEP_EVALUATIONS.get(sampler, 1),
                       latents=difference(made, exact), psnr=psnr(frames(subject, made), shown)))
  return rows


def guidance(subject: Subject, scales: Sequence[float]) -> list[dict]:
  """The judge's scores at each scale of guidance."""
  return [dict(scale=scale, scores=_scores(subject.guided(scale=scale))) for scale in scales]


def intervals(subject: Subject, given: Sequence[tuple[float, float]]) -> list[dict]:
  """For guidance in each interval: passes of the network, distance to guidance throughout, scores."""
  exact = latents(subject.guided(interval=(0.0, 1.0)))
  shown, rows = frames(subject, exact), []
  for low, high in given:
    inside = subject.guided(interval=(low, high))
    made, times = latents(inside), sample.times_of(subject.cfg, subject.grid, picture=False)[:-1]
    video = frames(subject, made)
    rows.append(dict(interval=[low, high], passes=int(len(times) + ((low <= times) & (times <= high)).sum()),
                     latents=difference(made, exact), psnr=psnr(video, shown), scores=subject.judge(video)))
  return rows


def caches(subject: Subject, calibrated_on: Subject, speedups: Sequence[float], *, few: int) -> list[dict]:
  """For each speed-up, by steps that reuse a velocity, that follow a line, and that are not there at all: distances to exact
  sampling and, of the first `few` prompts, to the solution; scores."""
  exact, solved = latents(subject), solution(subject._replace(prompts=subject.prompts[:few]))
  shown, full = frames(subject, exact), subject.cfg.sample.steps
  runs = [("exact", full, subject)]
  for order, name in ((0, "reuse"), (1, "line")):
    runs += [(name, found["computed"], subject.cached(found["skip"], order=order))
             for found in calibration.schedules(calibrated_on, speedups, order=order)]
  runs += [("fewer steps", round(full / speedup), subject.sampled(steps=round(full / speedup))) for speedup in speedups]
  rows = []
  for name, computed, run in runs:
    made = latents(run)
    video = frames(subject, made)
    rows.append(dict(way=name, computed=computed, latents=difference(made, exact), psnr=psnr(video, shown),
                     to_solution=difference(made[:few], solved), scores=subject.judge(video)))
  return rows


def pictures(subject: Subject, clips: Sequence, render: Callable, *, seed: int) -> list[dict]:
  """From the first frames of rendered clips, with their prompts, and from the prompts alone: PSNR of the first frame against the
  one given (rendered, and as the codec keeps it), and scores.  `render` is that of the data set of the clips."""
  bucket = subject.cfg.sample.bucket
  given = np.stack([render(clip, np.random.default_rng([seed, i]), frames=bucket.frames, height=bucket.height,
                           width=bucket.width)[0] for i, clip in enumerate(clips)])
  levels = extract.blurred(extract.signed(given))  # (N, levels, H, W, 3)
  encode = jax.jit(lambda codec, pixels: codec.encode(pixels))
  encoded = np.asarray(encode(subject.codec, levels.reshape(-1, 1, *given.shape[1:])))
  first_frame = encoded.reshape(*levels.shape[:2], *encoded.shape[2:])
  kept = frames(subject, first_frame[:, :1])[:, 0]
  rows = []
  for name, more in (("picture", dict(first_frame=first_frame)), ("text alone", {})):
    video = frames(subject, latents(subject, **more))
    rows.append(dict(start=name, psnr_given=psnr(video[:, 0], given), psnr_kept=psnr(video[:, 0], kept),
                     scores=subject.judge(video)))
  return rows + [dict(start="codec alone", psnr_given=psnr(kept, given))]


def _scores(subject):
  return subject.judge(frames(subject, latents(subject)))
