"""Which moments of a captioned part of a video its clips show.

A policy is (frames there are, frames of the clip) -> [(first frame, step)], both of the video at its thinned rate: a clip's
frames are those at first + i * step.  Images, and buckets of one frame, are the case of one.
"""

from collections.abc import Callable


def first(there: int, frames: int) -> list[tuple[float, float]]:
  """The beginning, at full rate."""
  return [(0.0, 1.0)]


def centre(there: int, frames: int) -> list[tuple[float, float]]:
  """The middle, at full rate."""
  return [((there - frames) // 2, 1.0)]


def spread(there: int, frames: int) -> list[tuple[float, float]]:
  """From the first frame to the last, evenly: long parts play fast."""
  return [(0.0, (there - 1) / (frames - 1) if frames > 1 else 1.0)]


def cut(there: int, frames: int) -> list[tuple[float, float]]:
  """As many clips as the part holds, one after the other, at full rate; one where a clip is a single frame."""
  return [(i * frames, 1.0) for i in range(there // frames if frames > 1 else 1)]


Policy = Callable[[int, int], list[tuple[float, float]]]
# Name -> policy.  `tests/test_survey.py` runs over all of them.
POLICIES: dict[str, Policy] = {"first": first, "centre": centre, "spread": spread, "cut": cut}
