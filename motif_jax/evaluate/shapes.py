"""A judge of generated moving-shape clips: classical vision that reads back what a clip shows, so that learning is a number.

It assumes one shape of one colour on one background, as `data.shapes` renders them, and stands some blur and noise.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import numpy as np

from motif_jax.data import shapes

ATTRIBUTES = ("colour", "shape", "motion", "background", "size")
SCORED = ("colour", "shape", "motion", "background")  # what the held-out combinations are made of
CHANCE = {name: 1 / len(values) for name, values in (
    ("colour", shapes.COLOURS), ("shape", shapes.SHAPES), ("motion", shapes.MOTIONS), ("background", shapes.BACKGROUNDS))}

NONE = "none"  # read where there is no shape to see; never right
CONTRAST = 40.0  # least distance of shape and background colours, of 441 between black and white
AREA = 0.01  # least share of the frame that the shape covers
MOVING = 0.13  # least displacement over a clip, as a share of the frame: half of what moving clips cover
SIDES = np.linspace(0.30, 0.70, 17)  # template sizes that the shape is compared with, as shares of the frame's shorter side
WORKING = 32  # clips are averaged down until their shorter side is less than twice this, so that pixel rules hold at any size


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
  if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
    raise ValueError(f"video is {video.dtype} {video.shape}, expected uint8 (F, H, W, 3).")
  pixels = _shrink(video.astype(np.float64))
  ground = _border_colour(pixels)
  background = _nearest(ground, shapes.BACKGROUNDS)
  figure = _figure_colour(pixels, ground)
  masks = _masks(pixels, ground, figure)
  seen = masks.mean((1, 2)) >= AREA
  if np.linalg.norm(figure - ground) < CONTRAST or seen.sum() < (len(seen) + 1) // 2:
    return Reading(NONE, NONE, NONE, NONE, background, 0.0, 0.0)
  centres = np.stack([_centre(mask) for mask in masks[seen]])
  shape, side = _match(_centred_mean(masks[seen], centres))
  return Reading(
      colour=_nearest(figure, colours),
      shape=shape,
      size=min(shapes.SIZES, key=lambda name: abs(shapes.SIZES[name] - side)),
      motion=_motion(np.flatnonzero(seen), centres, pixels.shape[:3]),
      background=background,
      steadiness=_steadiness(pixels, masks, figure, ground),
      sharpness=_steepness(masks[seen]) / _rendered_steepness(shape, side, min(video.shape[1:3])),
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
  known = shapes.combinations(held_out=True, colour=colour)
  turns = [rng.permutation(len(known)) for _ in range(-(-count // len(known)))]
  clips = [known[i] for i in np.concatenate(turns)[:count]]
  return clips, [shapes.caption_long(clip, rng) for clip in clips]


def _shrink(frames):
  """The frames (F, H, W, ...) with squares of k x k pixels averaged, k = 1 for small ones."""
  k = max(1, min(frames.shape[1:3]) // WORKING)
  height, width = frames.shape[1] // k, frames.shape[2] // k
  return frames[:, :height * k, :width * k].reshape(len(frames), height, k, width, k, *frames.shape[3:]).mean((2, 4))


def _border_colour(pixels):
  """Median colour of the two outermost rows and columns of all frames: the shape covers less than half of them."""
  inner = np.zeros(pixels.shape[1:3], bool)
  inner[2:-2, 2:-2] = True
  return np.median(pixels[:, ~inner].reshape(-1, 3), axis=0)


def _figure_colour(pixels, ground):
  """Median colour of what differs most from the background, so that soft edges count little."""
  distance = np.linalg.norm(pixels - ground, axis=-1)
  return np.median(pixels[distance >= 0.75 * np.quantile(distance, 0.97)], axis=0)


def _nearest(colour, palette):
  return min(palette, key=lambda name: np.linalg.norm(colour - np.array(palette[name])))


def _masks(pixels, ground, figure):
  """How much of each pixel (F, H, W) is the figure: its place on the line between the two colours, faint traces cut off."""
  line = figure - ground
  share = (pixels - ground) @ line / max(line @ line, 1e-9)
  return _cut(share)


def _cut(share):
  return np.where(share < 0.25, 0.0, np.minimum(share, 1.0))


def _centre(mask):
  """The centroid (row, column) of a mask (H, W), in pixels from the outer corner of the first one."""
  rows, columns = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
  return np.array([mask.sum(1) @ rows, mask.sum(0) @ columns]) / mask.sum()


def _motion(times, centres, extent):
  """The direction of the straight line through the centroids, over a clip of `extent` (F, H, W)."""
  if len(times) < 2:
    return "still"
  slope = np.polyfit(times, centres, 1)[0]
  moved = slope * (extent[0] - 1) / np.array(extent[1:])
  if np.abs(moved).max() < MOVING:
    return "still"
  return max(shapes.MOTIONS, key=lambda name: np.dot(shapes.MOTIONS[name], moved))


def _centred_mean(masks, centres):
  """The mean (S, S) over time of the masks, each moved so that its centroid is the centre; S is the shorter side."""
  side = min(masks.shape[1:])
  rows, columns = (np.arange(side) + 0.5 - side / 2 for _ in range(2))
  return np.mean([_sample(mask, rows + y, columns + x) for mask, (y, x) in zip(masks, centres)], axis=0)


def _sample(mask, rows, columns):
  """The mask at the crossings of `rows` and `columns`, linearly, zero outside."""
  return _weights(rows, mask.shape[0]) @ mask @ _weights(columns, mask.shape[1]).T


def _weights(places, size):
  return np.maximum(0, 1 - np.abs(places[:, None] - (np.arange(size) + 0.5)))


@functools.cache
def _template(shape, side, extent):
  """The mask (S, S) of a rendered shape, its centroid at the centre: that of a triangle is not that of its box."""
  mask = shapes.coverage(shape, (extent / 2, extent / 2), side * extent, extent, extent)
  return _centred_mean(mask[None], _centre(mask)[None])


def _match(mean):
  """The (shape, side) of the template that correlates best with the mean mask."""
  known = [(shape, float(side)) for shape in shapes.SHAPES for side in SIDES]
  return max(known, key=lambda pair: np.corrcoef(_template(*pair, len(mean)).ravel(), mean.ravel())[0, 1])


def _steadiness(pixels, masks, figure, ground):
  area = masks.sum((1, 2))
  drift = [_drift(pixels, masks >= 0.9, figure), _drift(pixels, masks == 0, ground)]
  return float(max(0.0, 1 - area.std() / area.mean() - max(drift) / np.linalg.norm(figure - ground)))


def _drift(pixels, where, colour):
  """Mean distance from `colour` of the mean colours that frames have at `where` (F, H, W)."""
  return float(np.mean([np.linalg.norm(frame[here].mean(0) - colour) for frame, here in zip(pixels, where) if here.any()] or [0]))


def _steepness(masks):
  """Mean slope of the masks (F, H, W) where they have one, weighted by itself: the inverse of the width of an edge."""
  dy, dx = masks[:, 1:, :-1] - masks[:, :-1, :-1], masks[:, :-1, 1:] - masks[:, :-1, :-1]
  slope = np.sqrt(dy**2 + dx**2)
  return float((slope**2).sum() / max(slope.sum(), 1e-9))


@functools.cache
def _rendered_steepness(shape, side, extent):
  """The steepness of the shape rendered in frames of `extent` squared, at four places between two pixels."""
  places = [(extent / 2 + y / 2, extent / 2 + x / 2) for y in range(2) for x in range(2)]
  return _steepness(_cut(_shrink(np.stack([shapes.coverage(shape, p, side * extent, extent, extent) for p in places]))))
