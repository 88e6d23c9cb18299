"""One captioned clip of a source: where its bytes lie, which moments of them it shows, and what is said of it."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from motif_jax.config import BucketConfig
from motif_jax.data import videos


@dataclasses.dataclass(frozen=True)
class Skip:
  """Something that was left out, and why.  `reason` is one of few, for counting."""

  name: str
  reason: str
  detail: str


@dataclasses.dataclass(frozen=True)
class Clip:
  """A captioned clip.  Frame i is the one on screen at `start` + i / `fps` seconds."""

  key: str  # unique in its source, and the same in every run: the file (in a tar: TAR/MEMBER), and "@seconds" of a later part
  file: str  # within the folder: a video, an image, or the tar that holds it
  span: tuple[int, int] | None  # (first, size) of its bytes in a tar; None: the whole file
  long: str
  short: str
  tags: tuple[str, ...]
  start: float  # seconds
  end: float | None  # seconds, where the captioned part ends; None: with the file
  fps: float  # of the clip that is read: at most this
  stamp: tuple[int, int]  # size and time of change of the file: a replaced file is a new clip


def read(folder, clip: Clip, bucket: BucketConfig) -> np.ndarray:
  """The frames of a clip of the source in `folder`, uint8 (F, H, W, 3).  Raises `videos.UnreadableVideo`, whose kind is a reason
  to skip the clip."""
  return videos.read_clip(pathlib.Path(folder) / clip.file, bucket, start=clip.start, fps=clip.fps, span=clip.span)


def counted(skipped: Sequence[Skip], *, examples: int = 3) -> list[str]:
  """A line for each reason, with a few examples."""
  lines = []
  for reason, count in sorted(collections.Counter(skip.reason for skip in skipped).items()):
    lines.append(f"{count:8d} skipped: {reason}")
    lines += [f"{'':9}  {skip.detail}" for skip in skipped if skip.reason == reason][:examples]
  return lines
