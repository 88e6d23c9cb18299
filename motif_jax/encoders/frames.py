"""Pixels as the frozen vision models read them, and their features at the times of latents."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of each colour in [0, 1]
HALVES = ((0.5,) * 3, (0.5,) * 3)


def stretched(video: Array, side: int, *, method: str = "linear") -> Array:
  """Float32 (B, F, side, side, 3): whole frames of a video (B, F, H, W, 3), resized without regard to their shape."""
  return jax.image.resize(video.astype(jnp.float32), (*video.shape[:2], side, side, 3), method, antialias=True)


def normalised(video: Array, statistics: tuple) -> Array:
  """Pixels in [-1, 1], brought to [0, 1] and then to the mean and deviation that a model was trained with."""
  mean, deviation = np.array(statistics, np.float32)
  return (video / 2 + 0.5 - mean) / deviation


def checked(times, frames: int) -> np.ndarray:
  """`times` as an array; ValueError unless they lie between the first and the last of `frames`."""
  times = np.asarray(times, np.float32)
  if times.min() < 0 or times.max() > frames - 1:
    raise ValueError(f"times {times.tolist()} must lie in [0, {frames - 1}], the first to the last of {frames} frames.")
  return times


def between(features: Array, places: np.ndarray) -> Array:
  """Features (B, len(places), ...) at fractional `places` of features (B, F, ...): linear between two, held at the ends."""
  before, after, share = neighbours(places, features.shape[1])
  share = share.reshape(-1, *(1,) * (features.ndim - 2))
  return (1 - share) * features[:, before] + share * features[:, after]


def neighbours(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """For each of `places`, the entries of `count` before and after it, and the share of the later one."""
  places = np.clip(places, 0, count - 1)
  before = np.minimum(np.floor(places).astype(int), max(count - 2, 0))
  return before, np.minimum(before + 1, count - 1), (places - before).astype(np.float32)
