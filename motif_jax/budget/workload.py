"""What one device has to do in a step: tokens of one sample, and how mesh and microbatches cut the batch."""

import dataclasses
import math

from motif_jax.config import BucketConfig, Config, ModelConfig
from motif_jax.mesh import AXES
from motif_jax.model import routing, sequence


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Tokens of one sample."""

  video: int
  text: int
  image: int = 0

  @property
  def context(self) -> int:
    """What joins the video in the attention of dual and single blocks."""
    return self.text + self.image


@dataclasses.dataclass(frozen=True)
class Split:
  """How a step is cut over devices.  The product of the mesh's sizes is the number of devices."""

  data: int = 1
  fsdp: int = 1
  sequence: int = 1
  heads: int = 1  # of the sequence degree: attention heads dealt by all-to-all
  keys: int = 1  # of the sequence degree: the rest, over which keys and values are gathered
  accumulate: int = 1  # microbatches one after another

  @property
  def devices(self) -> int:
    return self.data * self.fsdp * self.sequence

  @property
  def batch(self) -> int:
    """Into how many parts the rows of a batch are dealt."""
    return self.data * self.fsdp

  @property
  def state(self) -> int:
    """Into how many parts a parameter is cut."""
    return self.fsdp * self.sequence


def make_split(sizes: tuple[int, int, int], heads: int, *, accumulate: int = 1) -> Split:
  """The `Split` of a mesh (data, fsdp, sequence), its sequence degree divided as attention divides it."""
  assert len(sizes) == len(AXES)
  by_heads, by_keys = sequence.degrees(sizes[2], heads)
  return Split(*sizes, heads=by_heads, keys=by_keys, accumulate=accumulate)


def latent_grid(bucket: BucketConfig, strides: tuple[int, int, int]) -> tuple[int, int, int]:
  """The latent grid (frames, height, width) of a clip, for a codec of such strides whose first frame stands alone."""
  time, height, width = strides
  if (bucket.frames - 1) % time or bucket.height % height or bucket.width % width:
    raise ValueError(f"bucket {bucket.frames}x{bucket.height}x{bucket.width} does not fit a codec of strides {strides}: expected "
                     f"{time} k + 1 frames, a height that divides by {height} and a width that divides by {width}.")
  return 1 + (bucket.frames - 1) // time, bucket.height // height, bucket.width // width


def tokens_of(cfg: ModelConfig, latent_grid: tuple[int, int, int], text: int, image: int = 0) -> Tokens:
  """The tokens of a clip with latents of that grid (frames, height, width), beside `text` and `image` tokens."""
  if any(size % p for size, p in zip(latent_grid, cfg.patch)):
    raise ValueError(f"The latent grid {latent_grid} does not divide by model.patch {cfg.patch}; choose another bucket.")
  return Tokens(math.prod(size // p for size, p in zip(latent_grid, cfg.patch)), text, image)


def check_split(cfg: Config, split: Split, tokens: Tokens) -> None:
  """ValueError unless the video tokens, and the groups of the route, divide by the sequence degree."""
  if tokens.video % split.sequence:
    good = [d for d in range(1, 2 * split.sequence) if tokens.video % d == 0]
    near = lambda degrees: sorted(degrees, key=lambda d: abs(d - split.sequence))
    here = near(d for d in good if split.devices % (split.fsdp * d) == 0)[0]
    raise ValueError(f"{tokens.video} video tokens do not divide by mesh.sequence = {split.sequence}; the nearest degrees that "
                     f"do: {', '.join(map(str, sorted(near(good)[:2])))}; on these {split.devices} devices "
                     f"--config.mesh.data={split.devices // (split.fsdp * here)} --config.mesh.sequence={here}.")
  if cfg.route.keep < 1:
    routing.kept_per_group(tokens.video, cfg.route.keep, cfg.route.groups)  # raises
    if cfg.route.groups % split.sequence:
      raise ValueError(f"route.groups {cfg.route.groups} is not a multiple of mesh.sequence = {split.sequence}: a group would "
                       f"lie on two devices; set route.groups to a multiple of {split.sequence}.")


def kept(cfg: Config, tokens: Tokens) -> Tokens:
  """The tokens that a routed block sees."""
  groups = cfg.route.groups
  return dataclasses.replace(tokens, video=groups * routing.kept_per_group(tokens.video, cfg.route.keep, groups))
