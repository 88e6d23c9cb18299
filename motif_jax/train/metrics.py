"""What is measured (clu.metrics), and where it goes: TensorBoard files, metrics.jsonl beside them, and a progress line.

clu.metric_writers imports TensorFlow; tensorboard's own event writer does not.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import time
from typing import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from motif_jax import sharding
from motif_jax.config import BucketConfig
from motif_jax.data import buckets

SCALARS = "scalars.jsonl"  # in the work directory
UNJUDGING = ("train", "telemetry", "checkpoint")  # prefixes of what does not say how good the model is
BINS = 5  # of the training time, for the loss by time


@flax.struct.dataclass
class Sum(metrics.Metric):
  """The sum of one number per step."""

  total: jax.Array
  count: jax.Array  # of steps

  @classmethod
  def from_model_output(cls, value, **_):
    return cls(total=jnp.float32(value), count=jnp.int32(1))

  def merge(self, other):
    return type(self)(total=self.total + other.total, count=self.count + other.count)

  def compute(self):
    return self.total


def _loss(loss, updated=True, **_):
  """The loss; no samples where the step was skipped (`updated`): it may be infinite, and one would spoil the mean."""
  return dict(values=loss, mask=jnp.broadcast_to(updated, loss.shape))


def _loss_in_bin(index):
  """The mean loss of the samples whose time lies in one of BINS equal parts of [0, 1]."""

  def masked(loss, t, updated=True, **_):
    return dict(values=loss, mask=((t * BINS).astype(int).clip(0, BINS - 1) == index) & updated)

  return metrics.Average.from_fun(masked)


def _alignment(t, alignment=None, updated=True, **_):
  """The alignment loss; no samples where alignment is off."""
  return dict(values=t if alignment is None else alignment, mask=jnp.full(t.shape, alignment is not None) & updated)


def _gradient_norm(gradient_norm, updated=True, **_):
  return dict(values=gradient_norm[None], mask=jnp.asarray(updated)[None])


_LOSSES = {"loss": metrics.Average.from_fun(_loss)}
_LOSSES |= {f"loss_t{100 * i // BINS:02d}_{100 * (i + 1) // BINS}": _loss_in_bin(i) for i in range(BINS)}

# Made inside jitted functions, merged on the host.
ValidationMetrics = metrics.Collection.create(**_LOSSES)
TrainMetrics = metrics.Collection.create(
    **_LOSSES,
    gradient_norm=metrics.Average.from_fun(_gradient_norm),  # before clipping
    alignment=metrics.Average.from_fun(_alignment),
    learning_rate=metrics.LastValue.from_output("learning_rate"),
    skipped=Sum.from_fun(lambda updated=True, **_: dict(value=1 - updated)),  # batches that brought no update
)


measure = TrainMetrics.single_from_model_output  # what a training step calls: `measure(loss=(B,), t=(B,), ...)`


def merged(total: metrics.Collection | None, new: metrics.Collection) -> metrics.Collection:
  """`total` and the metrics of one more step, on the host; waits for that step."""
  new = jax.device_get(new)
  return new if total is None else total.merge(new)


def values_of(collection: metrics.Collection) -> dict[str, float]:
  """Name -> value of every metric that saw at least one sample."""
  filled = {name: m for name, m in vars(collection).items() if np.any(getattr(m, "count", 0))}
  return {name: float(m.compute()) for name, m in filled.items()}


def by_bucket(collections: dict) -> dict[str, float]:
  """The values of metrics by bucket, name/bucket -> value; empty where all samples were of one."""
  if len(collections) < 2:
    return {}
  return {f"{name}/{buckets.name(bucket)}": value for bucket, collection in collections.items()
          for name, value in values_of(collection).items() if name.startswith("loss")}


def to_json(total: metrics.Collection | None, by_bucket: dict) -> dict:
  """What is merged so far, in all and by bucket, as JSON has it, with all bits."""
  leaves = lambda c: {path: [leaf.dtype.name, leaf.tolist()] for path, leaf in sharding.paths_of(c)}
  return {"total": leaves(total), "by_bucket": [[bucket and dataclasses.astuple(bucket), leaves(collection)]
                                                for bucket, collection in by_bucket.items()]}


def from_json(saved: dict) -> tuple[metrics.Collection | None, dict]:
  """What `to_json` was given; metrics that came later have seen nothing yet."""
  number = jax.ShapeDtypeStruct((), jnp.float32)
  shapes = jax.eval_shape(lambda x: measure(loss=x[None], t=x[None], gradient_norm=x, learning_rate=x), number)
  leaf = lambda leaves, path, x: np.asarray(*reversed(leaves[path])) if path in leaves else np.zeros(x.shape, x.dtype)
  structure, paths = jax.tree.structure(shapes), sharding.paths_of(shapes)
  made = lambda leaves: jax.tree.unflatten(structure, [leaf(leaves, path, x) for path, x in paths])
  by_bucket = {bucket and BucketConfig(*bucket): made(leaves) for bucket, leaves in saved.get("by_bucket", [])}
  return made(saved["total"]) if saved.get("total") else None, by_bucket


class Writer:
  """Writes scalars and clips for TensorBoard into `folder`; does nothing on processes other than the first.

  Scalars also go to a file of JSON lines, {"step": 50, "train/loss": 0.5, ...}, which `launch.curves` draws, and no step twice.

  Args:
    since: the step that the run goes on from; what a killed run wrote of later ones is taken back.
  """

  def __init__(self, folder: str, *, since: int = 0):
    self._events = self._lines = None
    self._figures: tuple[int, dict[str, float]] = (0, {})
    if jax.process_index() == 0:
      self._events = EventFileWriter(str(folder))
      # Readers drop what older files have from the step of this event on.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._events.add_event(event_pb2.Event(wall_time=time.time(), step=since + 1, session_log=start))
      self._lines = _cut(pathlib.Path(folder) / SCALARS, since)

  def scalars(self, step: int, values: dict[str, float], *, prefix: str) -> None:
    """Writes `values` under the names prefix/name."""
    named = {f"{prefix}/{name}": float(value) for name, value in values.items()}
    if named and self._events:
      # Nine digits say a float32 to the bit: runs can be compared.
      self._lines.write(json.dumps({"step": step} | {name: float(f"{value:.9g}") for name, value in named.items()}) + "\n")
      self._lines.flush()
      self._write(step, [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in named.items()])
    if prefix not in UNJUDGING:
      self._figures = step, (self._figures[1] if self._figures[0] == step else {}) | named

  def figures(self, step: int) -> dict[str, float]:
    """What was written of `step` that judges the model: all but the training metrics."""
    return self._figures[1] if self._figures[0] == step else {}

  def clips(self, step: int, clips: dict[str, np.ndarray], *, fps: int) -> None:
    """Writes name -> video (F, H, W, 3) uint8 as animated pictures, which TensorBoard plays under Images."""
    images = []
    for name, video in clips.items():
      frames, height, width, _ = video.shape
      image = summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif(video, fps=fps))
      images.append(summary_pb2.Summary.Value(tag=f"samples/{name}", image=image))
    self._write(step, images)

  def _write(self, step, values):
    if self._events:
      self._events.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)))
      self._events.flush()

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._events:
      self._events.close()
      self._lines.close()


def _cut(path: pathlib.Path, since: int):
  """The file `path`, opened to append, without the lines of steps after `since` and without half a line at its end."""
  file = open(path, "a+b")  # closed by the writer
  file.seek(0)
  end = 0
  for line in file:
    try:
      if not line.endswith(b"\n") or json.loads(line)["step"] > since:
        break
    except (KeyError, TypeError, ValueError):
      break
    end += len(line)
  file.truncate(end)
  return io.TextIOWrapper(file, encoding="utf-8")


def read(folder: str | pathlib.Path, name: str) -> list[tuple[int, float]]:
  """(step, value) of each time that a run wrote `name`, "train/loss" or the like; the half line of a killed run is left out."""
  found = []
  for line in (pathlib.Path(folder) / SCALARS).read_text().splitlines():
    with contextlib.suppress(json.JSONDecodeError):
      values = json.loads(line)
      found += [(values["step"], values[name])] if name in values else []
  return found


def gif(video: np.ndarray, *, fps: int) -> bytes:
  """The bytes of an animated GIF of video (F, H, W, 3) uint8, playing for ever."""
  first, *later = [Image.fromarray(frame) for frame in video]
  out = io.BytesIO()
  first.save(out, format="GIF", save_all=True, append_images=later, duration=round(1000 / fps), loop=0)
  return out.getvalue()


class Progress:
  """Speed since the last report, and the time left at that speed.  The clock stands still inside `paused`.

  `peak`: FLOP/s of one device, where it is known.
  """

  def __init__(self, stop: int, *, peak: float | None = None, clock: Callable[[], float] = time.perf_counter):
    self._stop, self._peak, self._clock = stop, peak, clock
    self._since: tuple[int, float] | None = None  # step and time of the last report
    self._done = np.zeros(3)  # video tokens, model FLOPs and executed FLOPs since then
    self._waited = 0.0  # seconds for data since then

  def stepped(self, step: int, work: tuple[float, float, float]) -> None:
    """Takes note that `step` is done.  The first one compiled, and is not timed.

    `work`: its video tokens, and the model FLOPs and executed FLOPs of one device (`budget.throughput.Work`).
    """
    if self._since is None:
      self._since, self._waited = (step, self._clock()), 0.0
    else:
      self._done += work

  def waited(self, seconds: float) -> None:
    """Takes note of seconds in which devices had no batch to work on."""
    self._waited += seconds

  @contextlib.contextmanager
  def paused(self):
    """Leaves what runs inside out of the speed: validation, samples, checkpoints."""
    began = self._clock()
    yield
    if self._since:
      self._since = self._since[0], self._since[1] + self._clock() - began

  def rates(self, step: int) -> dict[str, float]:
    """What was reached per second as of `step`, by name; empty before there is a timed step.

    steps_per_second, tokens_per_second, seconds_left; data_wait, the share of the time in which devices had no batch to work on;
    of one device model_tflops and executed_tflops per second, and where its peak is known mfu, the share of it that model FLOPs
    reach.
    """
    if self._since is None or step <= self._since[0]:
      return {}
    seconds = max(self._clock() - self._since[1], 1e-9)
    speed, (tokens, model, executed) = (step - self._since[0]) / seconds, map(float, self._done / seconds)
    waited, self._waited = self._waited / seconds, 0.0
    self._since, self._done = (step, self._clock()), np.zeros(3)
    rates = {"steps_per_second": speed, "tokens_per_second": tokens, "seconds_left": (self._stop - step) / speed,
             "data_wait": waited, "model_tflops": model / 1e12, "executed_tflops": executed / 1e12}
    return rates | ({"mfu": model / self._peak} if self._peak else {})

  def line(self, step: int, values: dict[str, float]) -> str:
    """One line for the terminal of metrics and rates by name."""
    named = [f"{label} {values[name]:.4g}" for name, label in SHOWN.items() if name in values]
    if "steps_per_second" in values:
      reached = [f"{values['mfu']:.1%} MFU"] if "mfu" in values else []
      reached += [f"{values['data_wait']:.0%} waiting for data"] if values.get("data_wait", 0) > SLOW_DATA else []
      named += [f"{values['steps_per_second']:.3g} steps/s", f"{values['tokens_per_second']:.3g} tokens/s", *reached,
                f"{duration(values['seconds_left'])} left"]
    return "  ".join([f"step {step}/{self._stop}", *named])


def duration(seconds: float) -> str:
  """"1h05m", or below an hour "5m07s"."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{seconds:02d}s"


SLOW_DATA = 0.05  # of the time; where devices wait for data for more of it, the progress line says so
# What the progress line shows of the metrics, and how it calls them.
SHOWN = {"loss": "loss", "alignment": "alignment", "gradient_norm": "gradient"}
