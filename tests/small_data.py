"""Small data for the tests of the data path: a data set on disk without any video, and encoders that cost nothing.

Every size differs, so that a transposed axis cannot pass.
"""

import dataclasses
from pathlib import Path

import numpy as np

from motif_jax.config import BucketConfig, DataConfig
from motif_jax.data import dataset as dataset_lib
from motif_jax.data.record import Spec

VIDEO, IMAGE = BucketConfig(5, 24, 32), BucketConfig(1, 24, 32)
SPECS = {b: Spec(grid=((b.frames - 1) // 2 + 1, 6, 8), channels=5, text_dim=7, teacher_grid=(2, 4), teacher_dim=9)
         for b in (VIDEO, IMAGE)}


def config(**changes) -> DataConfig:
  """A `DataConfig` for `write`'s data sets."""
  plain = DataConfig(path="", source="array_record", buckets=(), batch_size=4, batch_tokens=0, pattern=(), weights=(), mixture=(),
                     order="random", window=8, workers=0,
                     caption_drop=0.1, captions=(0.5, 0.3, 0.2), sample_latents=False, image_to_video=0.25,
                     image_tokens=False, validation=0.0, lost_records=0.0, text_tokens=6)
  return dataclasses.replace(plain, **changes)


def record(bucket: BucketConfig, number: int, image: tuple[int, int] = (0, 0)) -> dict:
  """Record `number`: its number stands in the first latent, and the length of each text says which text it is."""
  spec, rng = spec_of(bucket, image), np.random.default_rng(number)
  arrays = {name: rng.normal(size=[1 if n is None else n for n in shape]).astype(np.float16)
            for name, shape in spec.shapes.items()}
  for length, name in ((5, "text_long"), (3, "text_short"), (4, "text_truncated")):
    arrays[name] = rng.normal(size=(length, spec.text_dim)).astype(np.float16)
  arrays["latents"][0, 0, 0, 0] = number
  return arrays | dict(key=f"{bucket.frames}/{number:03d}.mp4", caption_long=f"Ein langer Satz über {number}. Noch einer.",
                       caption_short="short", source=f"{number:03d}.mp4", start=0.5, fps=24.0)


def spec_of(bucket: BucketConfig, image: tuple[int, int] = (0, 0)) -> Spec:
  """The `Spec` of a bucket, with `image` (tokens, dim) of the first frame."""
  return dataclasses.replace(SPECS[bucket], image=image)


def write(path: Path, counts: dict[BucketConfig, int], *, per_shard: int = 5, image: tuple[int, int] = (0, 0)) -> Path:
  """A whole data set in `path` with that many records of each bucket, and `image` (tokens, dim) in each; returns `path`."""
  parts = []
  for bucket, count in sorted(counts.items(), key=lambda item: item[0].frames):
    chunks = [range(i, min(i + per_shard, count)) for i in range(0, count, per_shard)]
    written = []
    for index, chunk in enumerate(chunks):
      file = dataset_lib.shard_path(path, bucket, index, len(chunks))
      file.parent.mkdir(parents=True, exist_ok=True)
      written.append(dataset_lib.write_shard(file, (record(bucket, n, image) for n in chunk), spec_of(bucket, image)))
    parts.append(dataset_lib.Part(bucket, spec_of(bucket, image), count))
    dataset_lib.write_part(path, parts[-1], *zip(*written))
  encoders = Codec(), Text(), Teacher()
  dataset_lib.write_meta(path, dataset_lib.Meta(
      codec=dict(name=encoders[0].name, version="1", channels=5, strides=[2, 4, 4]),
      text=dict(name=encoders[1].name, version="1", dim=7), teacher=dict(name=encoders[2].name, version="1", dim=9),
      text_empty=np.full((1, 7), 2, np.float16), parts=tuple(parts), fingerprint="none",
      image=dict(name="pictures", version="1", dim=image[1]) if image[0] else None))
  return path


@dataclasses.dataclass(frozen=True)
class Codec:
  """Block means over (2, 4, 4) pixels, frame 0 alone; two more channels hold a constant."""

  name: str = "means"
  version: str = "1"
  channels: int = 5
  strides: tuple = (2, 4, 4)

  def encode(self, video):
    batch, frames, height, width, _ = video.shape
    rows = video.reshape(batch, frames, height // 4, 4, width // 4, 4, 3).mean((3, 5))
    times = [rows[:, 0]] + [rows[:, i:i + 2].mean(1) for i in range(1, frames, 2)]
    return np.stack([np.concatenate([t, np.full_like(t[..., :2], 0.5)], axis=-1) for t in times], axis=1)

  def grid(self, frames, height, width):
    if (frames - 1) % 2 or height % 4 or width % 4:
      raise ValueError(f"{frames} x {height} x {width} does not fit the strides {self.strides}.")
    return (frames - 1) // 2 + 1, height // 4, width // 4

  def latent_times(self, frames):
    return (0.0, *(2 * i - 0.5 for i in range(1, (frames - 1) // 2 + 1)))


@dataclasses.dataclass(frozen=True)
class Text:
  """One row per word, its length in every feature; one row of ones before them."""

  name: str = "lengths"
  version: str = "1"
  dim: int = 7

  def encode(self, captions):
    return [np.array([1, *map(len, c.split())], np.float32)[:, None] * np.ones((1, self.dim), np.float32) for c in captions]


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The brightness of each (2, 4) cell of the frame nearest to each time."""

  name: str = "cells"
  version: str = "1"
  dim: int = 9

  def grid(self, height, width):
    return 2, 4

  def encode(self, video, times):
    batch, _, height, width, _ = video.shape
    picked = video[:, [int(t) for t in times]]
    cells = picked.reshape(batch, len(times), 2, height // 2, 4, width // 4, 3).mean((3, 5, 6))
    return cells[..., None] * np.ones(self.dim, np.float32)
