"""Buckets: the static shapes (frames x height x width, in pixels) that clips are cut to, and which clip goes where.

A bucket is named by its shape, 33x144x256, or with others by a preset: 33x144p stands for all aspect ratios of 144p.
"""

import re
from collections.abc import Sequence

from motif_jax.config import BucketConfig, DataConfig

# (height, width) near 16:9, 4:3, 1:1, 3:4 and 9:16; first the recipe's (recipe.md section 1).  All sides divide by 16, the pixels
# of a token with strides (4, 8, 8) and patch (1, 2, 2).  Tokens of a frame are within 7 % of the recipe's 144, 880, 1560 and 3680
# and divide by 8, so that routing may have as many groups, but for the 140 of 160 x 224: at 144p routing is off.
PRESETS = {
    "144p": ((144, 256), (160, 224), (192, 192), (224, 160), (256, 144)),
    "360p": ((352, 640), (416, 576), (448, 480), (576, 416), (640, 352)),
    "480p": ((480, 832), (544, 704), (640, 640), (704, 544), (832, 480)),
    # The recipe's 736 rows take sources of more than 720; videos of 1280 x 720 fill the second.
    "720p": ((736, 1280), (704, 1280), (832, 1120), (960, 960), (1120, 832), (1280, 704), (1280, 736)),
}
NEARLY = 0.8  # buckets this near to the largest count as equally large


def name(bucket: BucketConfig) -> str:
  """The name of a bucket, as in folders and flags: "9x32x32"."""
  return f"{bucket.frames}x{bucket.height}x{bucket.width}"


def rows(cfg: DataConfig, bucket: BucketConfig, tokens: int) -> int:
  """Rows of the global batch of a bucket of clips with so many video tokens; ValueError where `batch_tokens` holds too few."""
  if cfg.batch_tokens and cfg.batch_tokens < tokens * cfg.batch_size:
    fewer = f", or lower data.batch_size to {cfg.batch_tokens // tokens}" if cfg.batch_tokens >= tokens else ""
    raise ValueError(f"data.batch_tokens {cfg.batch_tokens} is less than data.batch_size {cfg.batch_size} rows of bucket "
                     f"{name(bucket)}, which have {tokens} tokens each: {tokens * cfg.batch_size}; raise it to that{fewer}.")
  return cfg.rows(tokens)


def parse(text: str) -> tuple[BucketConfig, ...]:
  """The buckets of a comma-separated list of names such as "33x144x256,1x144p", sorted from large to small."""
  found = {}
  for part in filter(None, (p.strip() for p in text.split(","))):
    given = re.fullmatch(rf"([1-9]\d*)x(?:([1-9]\d*)x([1-9]\d*)|({'|'.join(PRESETS)}))", part)
    if not given:
      raise ValueError(f"bucket {part!r} is not FRAMESxHEIGHTxWIDTH in positive whole numbers, such as 33x144x256, nor "
                       f"FRAMESx{'|'.join(PRESETS)}, such as 33x144p.")
    for height, width in PRESETS[given[4]] if given[4] else [(given[2], given[3])]:
      bucket = BucketConfig(int(given[1]), int(height), int(width))
      found[name(bucket)] = bucket
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
  """The largest bucket that a clip of this size fills without upscaling; of those `NEARLY` as large, that of the nearest aspect
  ratio: it cuts least off, at the centre, when the frame is scaled to cover it.  None if the clip fills none."""
  filled = [b for b in buckets if b.frames <= frames and b.height <= height and b.width <= width]
  least = NEARLY * max(map(volume, filled), default=0)
  # Rounded: one row in a thousand makes no better fit.
  return max((b for b in filled if volume(b) >= least), default=None,
             key=lambda b: (round(_kept(b, height, width), 2), volume(b)))


def _kept(bucket: BucketConfig, height: int, width: int) -> float:
  """The share of a frame that is left after it is scaled to cover the bucket and cut."""
  scale = max(bucket.height / height, bucket.width / width)
  return bucket.height * bucket.width / (height * width * scale * scale)
