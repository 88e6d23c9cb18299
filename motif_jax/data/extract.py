"""From decoded clips to records: what the frozen encoders make of frames and captions, and the sizes of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from motif_jax.config import BucketConfig
from motif_jax.data import record as record_lib
from motif_jax.data.captions import first_sentence
from motif_jax.data.clip import Clip
from motif_jax.data.progress import Clock

# Standard deviations of the first frame's blur levels, as shares of the frame's shorter side.
BLUR = (0.0, 1 / 64, 1 / 32, 1 / 16)


class Encoders(NamedTuple):
  """The frozen encoders, as `encoders/registry.py` says; what is None is not stored."""

  codec: Any
  text: Any
  teacher: Any = None
  image: Any = None
  log_variance: bool = False  # of the latents too, where the codec knows it

  def describe(self) -> dict[str, dict | None]:
    """Name, version and sizes of each, as `dataset.Meta` keeps them."""
    named = lambda encoder, **sizes: encoder and dict(name=encoder.name, version=encoder.version, **sizes)
    return dict(
        codec=named(self.codec, channels=self.codec.channels, strides=list(self.codec.strides)),
        text=named(self.text, dim=self.text.dim),
        teacher=named(self.teacher, dim=self.teacher and self.teacher.dim),
        image=named(self.image, dim=self.image and self.image.dim),
    )

  def spec(self, bucket: BucketConfig) -> record_lib.Spec:
    """The sizes of the records of a bucket; ValueError where the codec does not take it."""
    if self.log_variance and not hasattr(self.codec, "posterior"):
      raise ValueError(f"encoders.log_variance is on, but codec {self.codec.name} is not a random one and has none; set it to "
                       "False.")
    return record_lib.Spec(
        grid=self.codec.grid(bucket.frames, bucket.height, bucket.width), channels=self.codec.channels, text_dim=self.text.dim,
        teacher_grid=self.teacher.grid(bucket.height, bucket.width) if self.teacher else (0, 0),
        teacher_dim=self.teacher.dim if self.teacher else 0,
        image=(self.image.tokens, self.image.dim) if self.image else (0, 0), log_variance=self.log_variance, tags=True)

  def text_empty(self) -> np.ndarray:
    """(T, dim) float16: the encoding of "", which stands for a dropped caption."""
    return _half(self.text.encode([""])[0])


class Devices(NamedTuple):
  """How the devices are used, by somebody who knows them."""

  jit: Callable  # compiles a function
  place: Callable  # array (B, ...) -> the same on the devices, rows spread over them
  rows: Callable[[BucketConfig], int]  # clips of a bucket that are encoded at once


class Extractor:
  """Clips and their frames -> records, by compiled encoders: one program for each bucket and batch size."""

  def __init__(self, encoders: Encoders, devices: Devices, *, clock: Clock):
    self._encoders, self._place, self._clock, jit = encoders, devices.place, clock, devices.jit
    times_of = encoders.codec.latent_times
    # Encoders are arguments: what a compiled function closes over becomes a constant of it, weights too.
    self._latents = jit(lambda codec, pixels: codec.encode(signed(pixels)))
    self._posterior = jit(lambda codec, pixels: codec.posterior(signed(pixels)))
    self._stills = jit(lambda codec, stills: codec.encode(stills))
    self._features = jit(lambda teacher, pixels: teacher.encode(signed(pixels), times_of(pixels.shape[1])))
    self._tokens = jit(lambda image, pixels: image.encode(signed(pixels)))

  def records(self, clips: Sequence[Clip], frames: Sequence[np.ndarray], *, rows: int) -> list[dict]:
    """The records of `clips` with `frames`, each uint8 (F, H, W, 3).  `rows`: the static batch; fewer clips are filled up."""
    pixels = np.stack([*frames, *[frames[-1]] * (rows - len(frames))])  # (B, F, H, W, 3)
    arrays = self._pixels(pixels, len(clips))
    captions = [caption for c in clips for caption in (c.long, c.short, first_sentence(c.long))]
    with self._clock.phase("text", len(clips)):
      texts = iter([_half(text) for text in self._encoders.text.encode(captions)])
    return [
        dict(key=clip.key, **{name: array[row] for name, array in arrays.items()},
             text_long=next(texts), text_short=next(texts), text_truncated=next(texts),
             caption_long=clip.long, caption_short=clip.short, source=clip.file, tags=", ".join(clip.tags),
             start=clip.start, fps=clip.fps)
        for row, clip in enumerate(clips)
    ]

  def _pixels(self, pixels, count) -> dict[str, np.ndarray]:
    """All that is made of pixels (B, F, H, W, 3), of which `count` rows are clips."""
    encoders, made, videos = self._encoders, {}, self._place(pixels)
    with self._clock.phase("codec", count):
      if encoders.log_variance:
        made["latents"], made["log_variance"] = map(_half, self._posterior(encoders.codec, videos))
      else:
        made["latents"] = _half(self._latents(encoders.codec, videos))
      stills = blurred(signed(pixels[:, 0]))  # (B, 4, H, W, 3)
      first = _half(self._stills(encoders.codec, self._place(stills.reshape(-1, 1, *stills.shape[2:]))))  # (B * 4, 1, ...)
      made["first_frame"] = first.reshape(len(pixels), record_lib.LEVELS, *first.shape[2:])
    if encoders.teacher:
      with self._clock.phase("teacher", count):
        made["teacher"] = _half(self._features(encoders.teacher, videos))
    if encoders.image:
      with self._clock.phase("image", count):
        made["image"] = _half(self._tokens(encoders.image, self._place(pixels[:, 0])))
    return made


def signed(pixels):
  """Float32 in [-1, 1] of uint8 pixels."""
  return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def blurred(frames: np.ndarray) -> np.ndarray:
  """(B, LEVELS, H, W, 3): `frames` (B, H, W, 3) under rising Gaussian blur; level 0 is unblurred."""
  batch, height, width, colours = frames.shape
  levels = [frames]
  for share in BLUR[1:]:
    rows, columns = (_gaussian(size, share * min(height, width)) for size in (height, width))
    down = (rows @ frames.reshape(batch, height, width * colours)).reshape(frames.shape)
    levels.append(columns @ down)
  return np.stack(levels, axis=1)


def _gaussian(size: int, deviation: float) -> np.ndarray:
  """(size, size) float32: row i averages around i; what would fall outside the frame is left out, so edges do not darken."""
  distance = np.arange(size)[:, None] - np.arange(size)
  weights = np.exp(-0.5 * (distance / deviation) ** 2)
  return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _half(array) -> np.ndarray:
  with np.errstate(over="ignore"):  # `record.check` reports what does not fit into float16
    return np.asarray(array).astype(np.float16)
