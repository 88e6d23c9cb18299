"""What a survey amounts to, before anything is encoded: clips, hours, tokens and disk of each bucket, and what was left out."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence

from motif_jax.config import BucketConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import clip as clip_lib
from motif_jax.data import record as record_lib
from motif_jax.data import videos
from motif_jax.data.clip import Skip
from motif_jax.data.survey import Survey


@dataclasses.dataclass(frozen=True)
class Row:
  """A bucket, or the sum of all."""

  bucket: str
  clips: int
  hours: float  # that its clips show
  tokens: int  # of video, all clips together
  bytes: int  # all clips together, by `record.bytes_of`
  probed: float | None = None  # videos a second of a core, where measured
  decoded: float | None = None  # clips a second of a core, where measured


@dataclasses.dataclass(frozen=True)
class Inventory:
  rows: tuple[Row, ...]  # of buckets that have clips, large ones first
  empty: tuple[str, ...]  # buckets that have none
  skipped: tuple[Skip, ...]
  probed: int  # videos that were opened
  rate: float  # of that, videos a second of the clock

  @property
  def total(self) -> Row:
    return Row("all", *(sum(getattr(row, name) for row in self.rows) for name in ("clips", "hours", "tokens", "bytes")))

  def table(self) -> str:
    """A line per bucket, then the empty ones and the reasons of what was left out."""
    measured = any(row.decoded for row in self.rows)
    lines = [f"{'bucket':>14}{'clips':>10}{'hours':>10}{'tokens a clip':>15}{'M tokens':>12}{'MB a clip':>11}{'GB':>10}" +
             f"{'probes/s a core':>17}{'clips/s a core':>16}" * measured]
    for row in (*self.rows, self.total) if self.rows else ():
      lines.append(
          f"{row.bucket:>14}{row.clips:>10}{row.hours:>10.2f}{row.tokens / row.clips:>15.0f}{row.tokens / 1e6:>12.2f}"
          f"{row.bytes / row.clips / 1e6:>11.3f}{row.bytes / 1e9:>10.3f}" + (
              f"{row.probed:>17.1f}{row.decoded:>16.2f}" if row.decoded else ""))
    lines += [f"no clip fills the buckets {', '.join(self.empty)}"] if self.empty else []
    return "\n".join([*lines, *clip_lib.counted(self.skipped), f"{self.probed} videos probed, {self.rate:.1f} a second"])

  def to_dict(self) -> dict:
    """The same for JSON."""
    return dataclasses.asdict(self) | dict(total=dataclasses.asdict(self.total))


def inventory(found: Survey, buckets: Sequence[BucketConfig], *, spec: Callable[[BucketConfig], record_lib.Spec],
              patch: tuple[int, int, int], seconds: float) -> Inventory:
  """The `Inventory` of a survey that took `seconds`.  `spec`: the sizes of a bucket's records; `patch`: latents of a token."""
  rows = []
  for bucket in (b for b in buckets if b in found.clips):
    clips, sizes = found.clips[bucket], spec(bucket)
    tokens = math.prod(-(-size // p) for size, p in zip(sizes.grid, patch))
    shown = sum(bucket.frames / clip.fps for clip in clips) if bucket.frames > 1 else 0.0
    size = record_lib.bytes_of(sizes)
    rows.append(Row(buckets_lib.name(bucket), len(clips), shown / 3600, tokens * len(clips), size * len(clips)))
  empty = tuple(buckets_lib.name(b) for b in buckets if b not in found.clips)
  return Inventory(tuple(rows), empty, found.skipped, found.probed, found.probed / seconds)


def measured(made: Inventory, source, found: Survey, *, clips: int) -> Inventory:
  """`made` with what a core probes and decodes in a second of its own time, on `clips` of each bucket, evenly over its keys."""
  rates = {}
  for bucket, own in found.clips.items():
    chosen = own[::-(-len(own) // clips)]
    rates[buckets_lib.name(bucket)] = dict(
        probed=_rate(lambda clip: videos.probe(pathlib.Path(source) / clip.file, start=clip.start, span=clip.span), chosen),
        decoded=_rate(lambda clip: clip_lib.read(source, clip, bucket), chosen))
  return dataclasses.replace(made, rows=tuple(dataclasses.replace(row, **rates[row.bucket]) for row in made.rows))


def _rate(work, clips) -> float:
  """Clips a second of processor time."""
  began = time.process_time()
  for clip in clips:
    with contextlib.suppress(videos.UnreadableVideo):  # encoding reports it
      work(clip)
  return len(clips) / (time.process_time() - began)
