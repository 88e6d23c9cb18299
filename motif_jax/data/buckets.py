"""Buckets: the static shapes (frames x height x width, in pixels) that clips are cut to, and which clip goes where."""

import re
from collections.abc import Sequence

from motif_jax.config import BucketConfig


def name(bucket: BucketConfig) -> str:
  """The name of a bucket, as in folders and flags: "9x32x32"."""
  return f"{bucket.frames}x{bucket.height}x{bucket.width}"


def parse(text: str) -> tuple[BucketConfig, ...]:
  """The buckets of a comma-separated list of names such as "33x144x256,1x144x256", sorted from large to small."""
  found = {}
  for part in filter(None, (p.strip() for p in text.split(","))):
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", part):
      raise ValueError(f"bucket {part!r} is not FRAMESxHEIGHTxWIDTH in positive whole numbers, such as 33x144x256.")
    found[part] = BucketConfig(*map(int, part.split("x")))
  if not found:
    raise ValueError(f"buckets {text!r} name no bucket; expected a list such as 33x144x256,1x144x256.")
  return tuple(sorted(found.values(), key=volume, reverse=True))


def one(text: str) -> BucketConfig:
  """The bucket that `text` names, where all videos have one size."""
  found = parse(text)
  if len(found) > 1:
    raise ValueError(f"--bucket={text} names {len(found)} buckets; all videos of a run have one size.")
  return found[0]


def volume(bucket: BucketConfig) -> int:
  """The number of pixels in a clip of this bucket."""
  return bucket.frames * bucket.height * bucket.width


def choose(buckets: Sequence[BucketConfig], frames: int, height: int, width: int) -> BucketConfig | None:
  """The largest bucket that a clip of this size fills without upscaling, and of equally large ones the one that cuts least off;
  None if it fills none."""
  filled = [b for b in buckets if b.frames <= frames and b.height <= height and b.width <= width]
  return max(filled, key=lambda b: (volume(b), _kept(b, height, width)), default=None)


def _kept(bucket: BucketConfig, height: int, width: int) -> float:
  """The share of a frame that is left after it is scaled to cover the bucket and cut."""
  scale = max(bucket.height / height, bucket.width / width)
  return bucket.height * bucket.width / (height * width * scale * scale)
