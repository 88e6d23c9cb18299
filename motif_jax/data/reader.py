"""Clips decoded ahead of who takes them, in processes that may hang or crash without harm."""

import pathlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from motif_jax.config import BucketConfig
from motif_jax.data import videos
from motif_jax.data.clip import Clip, Skip, read
from motif_jax.data.progress import Clock
from motif_jax.data.worker import Failed, Workers


class Reader:
  """Decodes clips of a folder in `decoders` processes, a batch ahead; a clip gets `limit` seconds, as of `Workers`."""

  def __init__(self, folder, *, decoders: int, limit: float, clock: Clock):
    self._folder, self._decoders, self._clock = pathlib.Path(folder), decoders, clock
    self._begun = {}  # (key, bucket) -> future of what is decoded ahead, perhaps for the next call
    self._workers = Workers(decoders, limit=limit)

  def batches(self, clips: Sequence[Clip], bucket: BucketConfig, *, rows: int, skipped: list[Skip],
              after: Sequence[tuple[Clip, BucketConfig]] = ()) -> Iterator[tuple[list[Clip], list[np.ndarray]]]:
    """Up to `rows` clips at a time with their frames, uint8 (F, H, W, 3), in order; clips that fail are appended to `skipped`.
    `after`: what is asked for next, so that it is begun while the last of these are encoded."""
    taken, frames = [], []
    for clip, decoded in self._decoded([(clip, bucket) for clip in clips], after, rows + self._decoders):
      if isinstance(decoded, Skip):
        skipped.append(decoded)
        continue
      taken.append(clip)
      frames.append(decoded)
      if len(taken) == rows:
        yield taken, frames
        taken, frames = [], []
    if taken:
      yield taken, frames

  def close(self) -> None:
    """Ends the processes; what waits is not decoded any more."""
    self._workers.close()

  def _decoded(self, wanted, after, ahead):
    queue = [*wanted, *after[:ahead]]
    name = lambda clip, bucket: (clip.key, bucket)
    for place, (clip, bucket) in enumerate(wanted):
      for coming in queue[place:place + ahead + 1]:
        if name(*coming) not in self._begun:
          self._begun[name(*coming)] = self._workers.submit(decode, self._folder, *coming)
      yield clip, self._result(clip, self._begun.pop(name(clip, bucket)))

  def _result(self, clip, future) -> np.ndarray | Skip:
    try:
      with self._clock.phase("waiting for clips"):
        seconds, decoded = future.result()
    except Failed as e:
      return Skip(clip.key, f"decoder {e.kind}", f"{clip.key}: {e}, twice.")
    self._clock.add("decode", seconds, 1)
    return decoded


def decode(folder: pathlib.Path, clip: Clip, bucket: BucketConfig) -> tuple[float, np.ndarray | Skip]:
  """(seconds it took, the frames of `clip`, uint8 (F, H, W, 3), or why there are none)."""
  began = time.perf_counter()
  try:
    decoded = read(folder, clip, bucket)
  except videos.UnreadableVideo as e:
    decoded = Skip(clip.key, e.kind, str(e))
  return time.perf_counter() - began, decoded
