"""From files to records: clips decoded ahead in threads, and what the frozen encoders make of their frames and captions."""

import collections
import concurrent.futures
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from motif_jax.config import BucketConfig
from motif_jax.data import record as record_lib
from motif_jax.data import videos
from motif_jax.data.captions import first_sentence
from motif_jax.data.clip import Clip, Skip, read

# Standard deviations of the first frame's blur levels, as shares of the frame's shorter side.
BLUR = (0.0, 1 / 64, 1 / 32, 1 / 16)


class Encoders(NamedTuple):
  """The frozen encoders; `encoders/registry.py` says what each offers."""

  codec: Any
  text: Any
  teacher: Any

  def describe(self) -> dict[str, dict]:
    """Name, version and sizes of each, as `dataset.Meta` keeps them."""
    return dict(
        codec=dict(name=self.codec.name, version=self.codec.version, channels=self.codec.channels,
                   strides=list(self.codec.strides)),
        text=dict(name=self.text.name, version=self.text.version, dim=self.text.dim),
        teacher=dict(name=self.teacher.name, version=self.teacher.version, dim=self.teacher.dim),
    )

  def text_empty(self) -> np.ndarray:
    """(1, dim) float16: the encoding of "", which stands for a dropped caption."""
    return _half(self.text.encode([""])[0])


class Reader:
  """Decodes clips in `threads`, at most `ahead` clips ahead of who takes them."""

  def __init__(self, folder, *, threads: int, ahead: int):
    self._folder, self._ahead = pathlib.Path(folder), ahead
    self._pool = concurrent.futures.ThreadPoolExecutor(threads)

  def batches(self, clips: Sequence[Clip], bucket: BucketConfig, *, rows: int,
              skipped: list[Skip]) -> Iterator[tuple[list[Clip], list[np.ndarray]]]:
    """Up to `rows` clips at a time with their frames, uint8 (F, H, W, 3), in order; clips that fail are appended to `skipped`."""
    taken, frames = [], []
    for clip, decoded in self._decoded(clips, bucket):
      if isinstance(decoded, videos.UnreadableVideo):
        skipped.append(Skip(clip.key, decoded.kind, str(decoded)))
        continue
      taken.append(clip)
      frames.append(decoded)
      if len(taken) == rows:
        yield taken, frames
        taken, frames = [], []
    if taken:
      yield taken, frames

  def close(self) -> None:
    """Ends the threads; what waits is not decoded any more."""
    self._pool.shutdown(cancel_futures=True)

  def _decoded(self, clips, bucket):
    waiting = collections.deque()
    for clip in clips:
      waiting.append((clip, self._pool.submit(self._decode, clip, bucket)))
      if len(waiting) > self._ahead:
        first, future = waiting.popleft()
        yield first, future.result()
    for first, future in waiting:
      yield first, future.result()

  def _decode(self, clip, bucket):
    try:
      return read(self._folder, clip, bucket)
    except videos.UnreadableVideo as e:
      return e


class Extractor:
  """Clips and their frames -> records, by compiled encoders: one program for each bucket and batch size."""

  def __init__(self, encoders: Encoders, *, jit: Callable):
    self._codec, self._text, self._teacher = encoders
    times_of = self._codec.latent_times
    # Encoders are arguments: what a compiled function closes over becomes a constant of it, weights too.
    self._latents = jit(lambda codec, pixels: codec.encode(signed(pixels)))
    self._stills = jit(lambda codec, stills: codec.encode(stills))
    self._features = jit(lambda teacher, pixels: teacher.encode(signed(pixels), times_of(pixels.shape[1])))

  def records(self, clips: Sequence[Clip], frames: Sequence[np.ndarray], *, rows: int) -> list[dict]:
    """The records of `clips` with `frames`, each uint8 (F, H, W, 3).  `rows`: the static batch; fewer clips are filled up."""
    pixels = np.stack([*frames, *[frames[-1]] * (rows - len(frames))])  # (B, F, H, W, 3)
    latents, teacher = _half(self._latents(self._codec, pixels)), _half(self._features(self._teacher, pixels))
    stills = blurred(signed(pixels[:, 0]))  # (B, 4, H, W, 3)
    first = _half(self._stills(self._codec, stills.reshape(-1, 1, *stills.shape[2:])))  # (B * 4, 1, H', W', C): of one frame
    first = first.reshape(rows, record_lib.LEVELS, *first.shape[2:])
    captions = [caption for c in clips for caption in (c.long, c.short, first_sentence(c.long))]
    texts = iter([_half(text) for text in self._text.encode(captions)])
    return [
        dict(key=clip.key, latents=latents[row], first_frame=first[row], teacher=teacher[row],
             text_long=next(texts), text_short=next(texts), text_truncated=next(texts),
             caption_long=clip.long, caption_short=clip.short, source=clip.file, start=clip.start, fps=clip.fps)
        for row, clip in enumerate(clips)
    ]


def spec_of(record: dict) -> record_lib.Spec:
  """The sizes of `record`, which those of its bucket share."""
  latents, teacher = record["latents"].shape, record["teacher"].shape
  return record_lib.Spec(grid=latents[:3], channels=latents[3], text_dim=record["text_long"].shape[1],
                         teacher_grid=teacher[1:3], teacher_dim=teacher[3])


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
