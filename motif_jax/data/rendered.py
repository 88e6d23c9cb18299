"""Embedded data sets that exist in memory alone: rendered and encoded when they are needed, without a file."""

from collections.abc import Mapping, Sequence

import numpy as np

from motif_jax.config import BucketConfig
from motif_jax.data import buckets as buckets_lib, record as record_lib
from motif_jax.data.clip import Clip
from motif_jax.data.dataset import Dataset, Meta, Part
from motif_jax.data.embedded import SETS
from motif_jax.data.extract import Devices, Encoders, Extractor
from motif_jax.data.progress import Clock

FPS = 8.0


class Source:
  """Records in a list, as `data.dataset.SOURCES` have them in a folder."""

  def __init__(self, records: Sequence[dict]):
    self._records = records
    self.shards = (len(records),)
    self.digests = np.array([record_lib.digest(record["key"]) for record in records], np.uint64)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return self._records[index]


def dataset(encoders: Encoders, counts: Mapping[BucketConfig, int], devices: Devices, *, benchmark: str, seed: int) -> Dataset:
  """A data set with that many clips of each bucket, of the combinations of `benchmark` that training may see; the same for the
  same seed."""
  shows = SETS[benchmark]
  extractor, parts, sources = Extractor(encoders, devices, clock=Clock()), [], []
  for bucket, count in sorted(counts.items(), key=lambda item: buckets_lib.name(item[0])):
    rng = np.random.default_rng([seed, bucket.frames, bucket.height, bucket.width])
    known = shows.combinations(held_out=False)
    shown = [known[i] for i in rng.choice(len(known), count, replace=count > len(known))]
    frames = [shows.render(clip, rng, frames=bucket.frames, height=bucket.height, width=bucket.width) for clip in shown]
    clips = [_clip(f"{buckets_lib.name(bucket)}/{i:06d}", **shows.captions(clip, rng)) for i, clip in enumerate(shown)]
    rows, records = devices.rows(bucket), []
    for first in range(0, count, rows):
      records += extractor.records(clips[first:first + rows], frames[first:first + rows], rows=rows)
    parts.append(Part(bucket, encoders.spec(bucket), count))
    sources.append(Source(records))
  meta = Meta(**encoders.describe(), text_empty=encoders.text_empty(), parts=tuple(parts),
              fingerprint=f"rendered {benchmark}, seed {seed}")
  return Dataset(meta, tuple(sources), origins=(0,) * len(parts))


def _clip(key, *, long, short):
  return Clip(key=key, file=key, span=None, long=long, short=short, tags=(), start=0.0, end=None, fps=FPS, stamp=(0, 0))
