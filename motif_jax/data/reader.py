"""Clips decoded ahead of who takes them, in processes that may hang or crash without harm."""

import concurrent.futures
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from motif_jax.config import BucketConfig
from motif_jax.data import videos
from motif_jax.data.clip import Clip, Skip, read
from motif_jax.data.progress import Clock
from motif_jax.data.worker import Failed, Worker

TRIES = 2  # a decoder may be the victim of its machine: only a clip that fails twice is skipped


class Reader:
  """Decodes clips of a folder in `decoders` processes, a batch ahead; a clip gets `limit` seconds, twice.

  With no decoders it decodes in a thread of this process, without a limit.
  """

  def __init__(self, folder, *, decoders: int, limit: float, clock: Clock):
    self._folder, self._decoders, self._limit, self._clock = pathlib.Path(folder), decoders, limit, clock
    self._closed, self._begun = False, {}  # (key, bucket) -> future of what is decoded ahead for the next call
    self._own, self._workers = threading.local(), []
    self._pool = concurrent.futures.ThreadPoolExecutor(max(1, decoders))

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
    """Ends threads and processes; what waits is not decoded any more."""
    self._closed = True
    for worker in self._workers:
      worker.kill()
    self._pool.shutdown(cancel_futures=True)

  def _decoded(self, wanted, after, ahead):
    queue = [*wanted, *after[:ahead]]
    name = lambda clip, bucket: (clip.key, bucket)
    for place, (clip, bucket) in enumerate(wanted):
      for coming in queue[place:place + ahead + 1]:
        if name(*coming) not in self._begun:
          self._begun[name(*coming)] = self._pool.submit(self._decode, *coming)
      with self._clock.phase("waiting for clips"):
        decoded = self._begun.pop(name(clip, bucket)).result()
      yield clip, decoded

  def _decode(self, clip, bucket) -> np.ndarray | Skip:
    for last in [False] * (TRIES - 1) + [True]:
      try:
        seconds, decoded = self._run(_timed, self._folder, clip, bucket)
      except Failed as e:
        if last or self._closed:
          return Skip(clip.key, f"decoder {e.kind}", f"{clip.key}: {e}, {TRIES} times.")
      else:
        self._clock.add("decode", seconds, 1)
        return decoded

  def _run(self, function, *arguments):
    """What `function` returns, run by the process of this thread."""
    if not self._decoders:
      return function(*arguments)
    if not hasattr(self._own, "worker"):
      self._own.worker = Worker()
      self._workers.append(self._own.worker)
    return self._own.worker.call(function, *arguments, limit=self._limit)


def decode(folder: pathlib.Path, clip: Clip, bucket: BucketConfig) -> np.ndarray | Skip:
  """The frames of `clip`, uint8 (F, H, W, 3), or why there are none."""
  try:
    return read(folder, clip, bucket)
  except videos.UnreadableVideo as e:
    return Skip(clip.key, e.kind, str(e))


def _timed(*arguments) -> tuple[float, np.ndarray | Skip]:
  """(seconds, what `decode` gives)."""
  began = time.perf_counter()
  decoded = decode(*arguments)
  return time.perf_counter() - began, decoded
