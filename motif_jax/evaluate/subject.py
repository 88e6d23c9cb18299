"""What a study of sampling is made on: a model with its encoders, prompts, and a judge where there is one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from motif_jax import mesh as meshes, sample
from motif_jax.config import CacheConfig, Config


class Subject(NamedTuple):
  """A model, how it samples (`cfg.sample`), and for what."""

  params: dict
  cfg: Config
  codec: Any
  texts: Mapping[str, np.ndarray]  # features (T, dim) of each prompt, and of "": what encodes them need not be in memory
  prompts: Sequence[str]
  key: jax.Array
  batch: int
  judge: Callable | None = None  # frames of all prompts -> scores by name

  @property
  def grid(self) -> tuple[int, int, int]:
    """(F, H, W) of the latents."""
    return sample.latent_grid(self.cfg, self.codec, self.cfg.sample.bucket)

  def encoded(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(Features (N, T, dim), mask (N, T), True for real tokens) of prompts, as long as in training."""
    return sample.padded([self.texts[prompt] for prompt in prompts], self.cfg.data.text_tokens)

  def sampled(self, **changes) -> "Subject":
    """The same with these fields of `config.sample` changed."""
    return self._replace(cfg=dataclasses.replace(self.cfg, sample=dataclasses.replace(self.cfg.sample, **changes)))

  def guided(self, **changes) -> "Subject":
    """The same with these fields of `config.sample.guidance` changed."""
    return self.sampled(guidance=dataclasses.replace(self.cfg.sample.guidance, **changes))

  def cached(self, skip: Sequence[int], *, order: int) -> "Subject":
    """The same with the velocities of these steps foretold."""
    return self.sampled(cache=CacheConfig(tuple(map(int, skip)), order))


def in_batches(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
  """Yields (the numbers of the rows of a batch, how many of them are wanted) until all of `count` rows were there.

  All batches have as many rows, which the current mesh deals evenly: the last row fills up the last batch.
  """
  parts = meshes.parts_of("batch")
  size = -(-min(size, count) // parts) * parts
  for start in range(0, count, size):
    yield np.minimum(np.arange(start, start + size), count - 1), min(size, count - start)


def latents(subject: Subject, make: Callable = sample.generate, **given) -> np.ndarray:
  """Latents (N, F, H, W, C) of all prompts, made `subject.batch` at once; `given` are arrays (N, ...) that `make` also takes."""
  empty, made = subject.encoded([""]), []
  for rows, wanted in in_batches(len(subject.prompts), subject.batch):
    texts = subject.encoded([subject.prompts[i] for i in rows])
    made.append(np.asarray(make(subject.params, subject.cfg, *texts, *empty, key=subject.key, grid=subject.grid, indices=rows,
                                **{name: x[rows] for name, x in given.items()}))[:wanted])
  return np.concatenate(made)


def frames(subject: Subject, made: np.ndarray) -> np.ndarray:
  """Frames (N, F, H, W, 3) uint8 of latents (N, F, H, W, C)."""
  return np.concatenate([np.asarray(sample.decode(subject.codec, made[rows]))[:wanted]
                         for rows, wanted in in_batches(len(made), subject.batch)])


def difference(made: np.ndarray, exact: np.ndarray) -> float:
  """Norm of `made` - `exact` as a share of that of `exact`."""
  return float(np.linalg.norm(made - exact) / np.linalg.norm(exact))


def psnr(made: np.ndarray, exact: np.ndarray) -> float:
  """Peak signal-to-noise ratio of uint8 frames, in dB, of all together."""
  error = np.mean(np.square(made.astype(np.float64) - exact))
  return float(10 * np.log10(255**2 / max(error, 1e-9)))
