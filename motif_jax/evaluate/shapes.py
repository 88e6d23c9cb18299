"""A judge of generated moving-shape clips: classical vision that reads back what a clip shows, so that learning is a number.

It assumes one shape of one colour on one background, as `data.shapes` renders them, and stands some blur and noise.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from motif_jax.data import captioned, shapes
from motif_jax.evaluate import vision

ATTRIBUTES = ("colour", "shape", "motion", "background", "size")
SCORED = ("colour", "shape", "motion", "background")  # what the held-out combinations are made of
CHANCE = {name: 1 / len(values) for name, values in (
    ("colour", shapes.COLOURS), ("shape", shapes.SHAPES), ("motion", shapes.MOTIONS), ("background", shapes.BACKGROUNDS))}

NONE = "none"  # read where there is no shape to see; never right
CONTRAST = 40.0  # least distance of shape and background colours, of 441 between black and white
SIDES = np.linspace(0.30, 0.70, 17)  # template sizes that the shape is compared with, as shares of the frame's shorter side


@dataclasses.dataclass(frozen=True)
class Reading:
  """What the judge sees in one clip.  `steadiness` and `sharpness` are about 1 for rendered clips, 0 where nothing is seen."""

  colour: str
  shape: str
  size: str
  motion: str
  background: str
  steadiness: float  # 1 less the variation over time of the shape's area and of the two colours
  sharpness: float  # steepness of the shape's edges, as a share of that of a rendered one


def read(video: np.ndarray, colours: Mapping[str, tuple[int, int, int]] = shapes.COLOURS) -> Reading:
  """The `Reading` of a clip (F, H, W, 3) uint8, whose shape may have one of `colours`."""
  pixels = vision.pixels_of(video)
  ground = vision.border_colour(pixels)
  background = vision.nearest(ground, shapes.BACKGROUNDS)
  figure = _figure_colour(pixels, ground)
  masks = vision.cut(vision.share_of(pixels, ground, figure))
  seen = masks.mean((1, 2)) >= vision.AREA
  if np.linalg.norm(figure - ground) < CONTRAST or seen.sum() < (len(seen) + 1) // 2:
    return Reading(NONE, NONE, NONE, NONE, background, 0.0, 0.0)
  centres = np.stack([vision.centre(mask) for mask in masks[seen]])
  shape, side = vision.match(vision.centred_mean(masks[seen], centres), SIDES)
  return Reading(
      colour=vision.nearest(figure, colours),
      shape=shape,
      size=min(shapes.SIZES, key=lambda name: abs(shapes.SIZES[name] - side)),
      motion=vision.motion(np.flatnonzero(seen), centres, pixels.shape[:3]),
      background=background,
      steadiness=vision.steadiness(pixels, masks, masks == 0, figure, ground),
      sharpness=vision.steepness(masks[seen]) / vision.rendered_steepness(shape, side, min(video.shape[1:3])),
  )


def score(videos: Sequence[np.ndarray], clips: Sequence[shapes.Clip]) -> dict[str, float]:
  """Shares of `videos` read as their `clips` say, per attribute and for all scored ones at once, with mean qualities."""
  if len(videos) != len(clips) or not len(videos):
    raise ValueError(f"got {len(videos)} videos and {len(clips)} clips, expected as many of both, and at least one.")
  colours = shapes.COLOURS | {c.colour: shapes.NEW_COLOURS[c.colour] for c in clips if c.colour in shapes.NEW_COLOURS}
  readings = [read(video, colours) for video in videos]
  right = {name: np.array([getattr(r, name) == getattr(c, name) for r, c in zip(readings, clips)]) for name in ATTRIBUTES}
  return {
      **{name: float(hits.mean()) for name, hits in right.items()},
      "all": float(np.all([right[name] for name in SCORED], axis=0).mean()),
      "steadiness": float(np.mean([r.steadiness for r in readings])),
      "sharpness": float(np.mean([r.sharpness for r in readings])),
  }


def held_out_prompts(count: int, seed: int, colour: str | None = None) -> tuple[list[shapes.Clip], list[str]]:
  """`count` clips of combinations that training never saw, as evenly as can be, and a long caption of each; see
  `shapes.combinations` for `colour`."""
  rng = np.random.default_rng(seed)
  clips = captioned.spread(shapes.combinations(held_out=True, colour=colour), count, rng)
  return clips, [shapes.caption_long(clip, rng) for clip in clips]


def _figure_colour(pixels, ground):
  """Median colour of what differs most from the background, so that soft edges count little."""
  distance = np.linalg.norm(pixels - ground, axis=-1)
  return np.median(pixels[distance >= 0.75 * np.quantile(distance, 0.97)], axis=0)
