"""The clips of a source that can be encoded, each in its bucket, and the rest with a reason."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from motif_jax.config import BucketConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import moments, videos
from motif_jax.data.clip import Clip, Skip
from motif_jax.data.source import read_source
from motif_jax.data.worker import Failed, Workers


@dataclasses.dataclass(frozen=True)
class Survey:
  """The clips of each bucket that has any, sorted by key; buckets sorted by name."""

  clips: dict[BucketConfig, tuple[Clip, ...]]
  skipped: tuple[Skip, ...]
  probed: int  # videos that were opened


def survey(folder, buckets: Sequence[BucketConfig], *, fps: float = videos.FPS, readers: int = 0, limit: float = 300.0,
           policy: str = "first", columns: Mapping[str, str] = {}) -> Survey:
  """The `Survey` of a folder.  Reads all captions, and the header and first frame of each captioned video in `readers` processes,
  with a `limit` as of `worker.Workers`.
  `policy`: which moments of each are taken, one of `moments.POLICIES`; `columns`: as in `source.read_source`."""
  if policy not in moments.POLICIES:
    raise ValueError(f"the moments to take are {policy!r}, expected one of {', '.join(moments.POLICIES)}.")
  found, skipped = read_source(folder, fps=fps, columns=columns)
  with contextlib.closing(Workers(readers, limit=limit)) as workers:
    waiting = [(clip, workers.submit(_place, folder, clip, tuple(buckets), policy)) for clip in found]
    placed = [_result(clip, future) for clip, future in waiting]
  skipped += [place for place in placed if isinstance(place, Skip)]
  filled = [pair for place in placed if not isinstance(place, Skip) for pair in place]
  clips = {}
  for bucket, clip in sorted(filled, key=lambda pair: (buckets_lib.name(pair[0]), pair[1].key)):
    clips.setdefault(bucket, []).append(clip)
  return Survey(clips={bucket: tuple(own) for bucket, own in clips.items()}, skipped=tuple(skipped), probed=len(found))


def _result(clip: Clip, future) -> list[tuple[BucketConfig, Clip]] | Skip:
  """What `_place` gives."""
  try:
    return future.result()
  except Failed as e:
    return Skip(clip.key, f"probing {e.kind}", f"{clip.key}: {e}, twice.")


def _place(folder, clip: Clip, buckets, policy: str) -> list[tuple[BucketConfig, Clip]] | Skip:
  """The bucket of what a caption describes, and its clips with their moments; or why it has none."""
  try:
    probe = videos.probe(pathlib.Path(folder) / clip.file, start=clip.start, fps=clip.fps, span=clip.span)
  except videos.UnreadableVideo as e:
    return Skip(clip.key, e.kind, str(e))
  frames = probe.frames if clip.end is None else min(probe.frames, math.ceil((clip.end - clip.start) * probe.fps - 1e-3))
  if bucket := buckets_lib.choose(buckets, frames, probe.height, probe.width):
    return [(bucket, dataclasses.replace(clip, key=clip.key + (f"#{i}" if i else ""), start=clip.start + first / probe.fps,
                                         fps=probe.fps / step))
            for i, (first, step) in enumerate(moments.POLICIES[policy](frames, bucket.frames))]
  short = all(b.frames > frames for b in buckets)
  return Skip(clip.key, "too short" if short else "too small",
              f"{clip.key} has {frames} frames of {probe.height} x {probe.width}, which fill none of the buckets "
              f"{', '.join(map(buckets_lib.name, buckets))}; clips are never upscaled.")
