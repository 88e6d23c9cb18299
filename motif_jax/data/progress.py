"""How far encoding is, how long it will still take, and where the time goes."""

import collections
import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator

SAY_EVERY = 5.0  # seconds
# Phase -> whose time it is.  Waiting is what the devices lose to decoding; writing goes on beside them, in a thread.
PHASES = {"probe": "job", "decode": "core", "waiting for clips": "job", "codec": "device", "teacher": "device",
          "image": "device", "text": "device", "write": "job"}


class Clock:
  """Seconds and clips by phase, from any thread; those of all cores, or devices, in sum where `merge` brought them together."""

  def __init__(self, seconds: dict[str, float] | None = None, clips: dict[str, int] | None = None):
    self.seconds, self.clips = collections.Counter(seconds), collections.Counter(clips)
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def phase(self, name: str, clips: int = 0) -> Iterator[None]:
    """A context whose time counts as that phase's."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self.add(name, time.perf_counter() - began, clips)

  def add(self, name: str, seconds: float, clips: int = 0) -> None:
    """Counts time that somebody else took."""
    assert name in PHASES, name
    with self._lock:
      self.seconds[name] += seconds
      self.clips[name] += clips

  def merge(self, other: "Clock", devices: int) -> None:
    """Counts what a process with that many devices spent."""
    times = {name: devices if per == "device" else 1 for name, per in PHASES.items()}
    with self._lock:
      self.seconds.update({name: seconds * times[name] for name, seconds in other.seconds.items()})
      self.clips.update(other.clips)

  def taken(self) -> "Clock":
    """What was counted, from which this starts again."""
    with self._lock:
      taken = Clock(self.seconds, self.clips)
      self.seconds.clear()
      self.clips.clear()
    return taken

  def __reduce__(self):
    return Clock, (dict(self.seconds), dict(self.clips))

  def table(self) -> str:
    """A line per phase: seconds, clips, and clips a second of one core, one device or one job."""
    lines = [f"{'phase':<18}{'seconds':>10}{'clips':>9}{'clips/s':>10}"]
    for name, per in PHASES.items():
      if name in self.seconds:
        seconds, clips = self.seconds[name], self.clips[name]
        rate = f"{clips / seconds:10.1f} a {per}" if clips and seconds else ""
        lines.append(f"{name:<18}{seconds:10.2f}{clips or '':>9}{rate}")
    return "\n".join(lines)


class Progress:
  """Says now and then how far encoding is, and how long it will still take."""

  def __init__(self, total: int, say: Callable[[str], None]):
    self._total, self._say = total, say
    self._kept = self._made = 0
    self._began = self._said = time.monotonic()

  def kept(self, clips: int) -> None:
    """Counts clips of a shard that is there already: they cost no time."""
    self._kept += clips

  def made(self, clips: int) -> None:
    """Counts clips done in this run."""
    self._made += clips
    now, done = time.monotonic(), self._kept + self._made
    if clips and (now - self._said > SAY_EVERY or done == self._total):
      self._said = now
      rate = self._made / max(now - self._began, 1e-6)
      left = datetime.timedelta(seconds=round((self._total - done) / rate))
      self._say(f"{done} of {self._total} clips ({done / self._total:.0%}; {self._kept} from before), {rate:.1f} a second, "
                f"{left} left")
