"""What a run tells while it trains: metrics every so many steps, and a line for the terminal."""

import contextlib
import time
from collections.abc import Mapping

import jax

from motif_jax.budget import throughput
from motif_jax.config import BucketConfig, Config
from motif_jax.train import metrics, telemetry
from motif_jax.train.guard import Guard


class Report:
  """Writes metrics every `log_every` steps.  Those of a step are fetched when the next one is under way: no device waits."""

  def __init__(self, cfg: Config, writer: metrics.Writer, guard: Guard, *, lost: Mapping[str, str], peak: float | None,
               saved: dict):
    """`saved`: the `state` of the run before this one, or nothing."""
    self._guard, self._lost = guard, lost
    self._every, self._stop, self._writer = cfg.train.log_every, cfg.train.steps, writer
    self._progress = metrics.Progress(cfg.train.steps, peak=peak)
    self._pending = None
    self._total, self._by_bucket = metrics.from_json(saved)

  def add(self, step: int, bucket: BucketConfig | None, measured: tuple, work: throughput.Work) -> None:
    """Takes the metrics and the telemetry of `step`, just dispatched, and fetches those of the step before."""
    self.flush()
    self._pending = step, bucket, measured, work

  def flush(self) -> None:
    """Fetches what is pending; writes where it is time to."""
    if self._pending is None:
      return
    (step, bucket, (measured, closely), work), self._pending = self._pending, None
    measured = jax.device_get(measured)
    self._guard.count(step, skipped=measured.skipped.total > 0)
    self._total = metrics.merged(self._total, measured)
    self._by_bucket[bucket] = metrics.merged(self._by_bucket.get(bucket), measured)
    if closely:
      self._writer.scalars(step, telemetry.named(closely), prefix="telemetry")
    self._progress.stepped(step, work)
    if step % self._every == 0 or step == self._stop:
      values = metrics.values_of(self._total) | self._progress.rates(step) | {"lost_records": len(self._lost)}
      self._writer.scalars(step, values, prefix="train")
      self._writer.scalars(step, metrics.by_bucket(self._by_bucket), prefix="train")
      say(self._progress.line(step, values))
    if step % self._every == 0:  # and not at the end of a run, which another one may take further
      self._total, self._by_bucket = None, {}

  @contextlib.contextmanager
  def waiting(self):
    """Inside, the next batch is waited for; that counts where the devices had nothing left to do by its end."""
    began = time.perf_counter()
    yield
    if self._pending and all(x.is_ready() for x in jax.tree.leaves(self._pending[2])):
      self._progress.waited(time.perf_counter() - began)

  def state(self) -> dict:
    """What is merged since the last line, for a checkpoint; call it in a pause, or after a flush."""
    return metrics.to_json(self._total, self._by_bucket)

  def forget(self) -> None:
    """Drops what is pending and what is not written yet: those steps are undone."""
    self._pending = self._total = None
    self._by_bucket = {}

  def pause(self):
    """A context for what is not training: waits for the steps under way, and stops the clock."""
    self.flush()
    return self._progress.paused()


def say(*lines: str) -> None:
  """Prints on the first process."""
  if jax.process_index() == 0:
    print(*lines, sep="\n", flush=True)
