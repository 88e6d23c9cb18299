"""What is measured where: full sizes on a GPU, and on a CPU sizes that take seconds, so that the same code runs in tests."""

import dataclasses

from motif_jax.config import BucketConfig

STRIDES = (4, 8, 8)  # pixels per latent (time, height, width) of the released codec


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Every size that a case takes from the kind of device."""

  matmuls: tuple[int, ...]  # n of (n, n) times (n, n)
  copy: int  # bytes read, and written again
  lengths: tuple[int, ...]  # of attention, queries and keys alike, most valuable first
  text: int  # of them, tokens of text at the end, of which a quarter is real where padding is asked for
  grouped: int  # from this length on, groups of heads are measured too
  backends: tuple[str, ...]
  dtype: str
  config: str  # of attention and blocks
  blocks: tuple[BucketConfig, ...]
  steps: dict[str, tuple[BucketConfig, ...]]  # config -> buckets of training and sampling
  tokens: int  # video tokens in a batch, at most, but for a batch of one
  seconds: float  # of calls per case
  reference: tuple[BucketConfig, ...]  # of the torch original and ours
  reference_compiled: bool  # whether torch compiles its model: a minute of a C++ compiler on a CPU


SMALL, MIDDLE = BucketConfig(33, 144, 256), BucketConfig(65, 352, 640)
SD, HD = BucketConfig(121, 480, 832), BucketConfig(121, 736, 1280)
GPU = Sizes(
    matmuls=(4096, 8192, 16384), copy=4 << 30,
    # Joint attention at 480p (48,360 + 512) and 720p (114,080 + 512), the decoder's at 720p, then others.
    lengths=(114_592, 48_872, 228_160, 32_768, 8192, 2048), text=512, grouped=32_768,
    backends=("cudnn", "tokamax", "chunked", "xla"), dtype="bfloat16", config="motif_2b", blocks=(HD, SD),
    steps={"motif_2b": (SD, HD, MIDDLE, SMALL), "motif_b": (SD, MIDDLE, SMALL), "motif_s": (SD, MIDDLE, SMALL)},
    tokens=60_000, seconds=2.0, reference=(SD, MIDDLE), reference_compiled=True)
CPU = Sizes(
    matmuls=(256, 512), copy=16 << 20, lengths=(192,), text=16, grouped=192, backends=("chunked", "xla"), dtype="float32",
    config="smoke", blocks=(BucketConfig(9, 32, 32),),
    steps={"smoke": (BucketConfig(9, 32, 32),), "motif_s": (BucketConfig(13, 128, 128),)}, tokens=256,
    seconds=0.2, reference=(BucketConfig(9, 32, 32),), reference_compiled=False)


def sizes_of(platform: str) -> Sizes:
  """The sizes for devices of a platform as jax names it."""
  return GPU if platform in ("gpu", "cuda", "rocm") else CPU


def with_config(sizes: Sizes, name: str) -> Sizes:
  """`sizes` with steps of one config alone, at the buckets it has there, or else at those of the first config."""
  return dataclasses.replace(sizes, steps={name: sizes.steps.get(name, next(iter(sizes.steps.values())))})
