"""Classical vision that the judges of the embedded data sets share: colours, masks of what stands on a background, templates."""

from collections.abc import Mapping, Sequence
import functools

import numpy as np

from motif_jax.data import shapes

AREA = 0.01  # least share of the frame that a shape covers
MOVING = 0.13  # least displacement over a clip, as a share of the frame: half of what moving clips cover
WORKING = 32  # clips are averaged down until their shorter side is less than twice this, so that pixel rules hold at any size


def pixels_of(video: np.ndarray) -> np.ndarray:
  """The pixels (F, H, W, 3) float64 of a clip of as many frames, uint8, as the rest of this file wants them."""
  if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
    raise ValueError(f"video is {video.dtype} {video.shape}, expected uint8 (F, H, W, 3).")
  return shrink(video.astype(np.float64))


def shrink(frames: np.ndarray) -> np.ndarray:
  """The frames (F, H, W, ...) with squares of k x k pixels averaged, k = 1 for small ones."""
  k = max(1, min(frames.shape[1:3]) // WORKING)
  height, width = frames.shape[1] // k, frames.shape[2] // k
  return frames[:, :height * k, :width * k].reshape(len(frames), height, k, width, k, *frames.shape[3:]).mean((2, 4))


def border_colour(pixels: np.ndarray) -> np.ndarray:
  """Median colour (3,) of the two outermost rows and columns of all frames: the shapes cover less than half of them."""
  inner = np.zeros(pixels.shape[1:3], bool)
  inner[2:-2, 2:-2] = True
  return np.median(pixels[:, ~inner].reshape(-1, 3), axis=0)


def nearest(colour: np.ndarray, palette: Mapping[str, tuple[int, int, int]]) -> str:
  """The name of the colour in `palette` that is the least far from `colour` (3,)."""
  return min(palette, key=lambda name: np.linalg.norm(colour - np.array(palette[name])))


def share_of(pixels: np.ndarray, ground: np.ndarray, figure: np.ndarray) -> np.ndarray:
  """How much of each pixel is the figure, (F, H, W): its place on the line between the colours (3,) of ground and figure."""
  line = figure - ground
  return (pixels - ground) @ line / max(line @ line, 1e-9)


def cut(share: np.ndarray) -> np.ndarray:
  """A mask, of any shape, from what share of each pixel is the figure: faint traces are cut off."""
  return np.where(share < 0.25, 0.0, np.minimum(share, 1.0))


def centre(mask: np.ndarray) -> np.ndarray:
  """The centroid (2,), row and column, of a mask (H, W), in pixels from the outer corner of the first one."""
  rows, columns = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
  return np.array([mask.sum(1) @ rows, mask.sum(0) @ columns]) / mask.sum()


def motion(times: np.ndarray, centres: np.ndarray, extent: Sequence[int]) -> str:
  """Where the straight line through the centroids (N, 2) of frames `times` (N,) goes, over a clip of `extent` (F, H, W)."""
  if len(times) < 2:
    return "still"
  slope = np.polyfit(times, centres, 1)[0]
  moved = slope * (extent[0] - 1) / np.array(extent[1:])
  if np.abs(moved).max() < MOVING:
    return "still"
  return max(shapes.MOTIONS, key=lambda name: np.dot(shapes.MOTIONS[name], moved))


def centred_mean(masks: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """The mean (S, S) over time of the masks (F, H, W), each moved so that its centroid is the centre; S is the shorter side."""
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
  return centred_mean(mask[None], centre(mask)[None])


def match(mean: np.ndarray, sides: Sequence[float]) -> tuple[str, float]:
  """The (shape, side) of the template that correlates best with the mean mask (S, S); `sides` are shares of S."""
  known = [(shape, float(side)) for shape in shapes.SHAPES for side in sides]
  return max(known, key=lambda pair: np.corrcoef(_template(*pair, len(mean)).ravel(), mean.ravel())[0, 1])


def steadiness(pixels: np.ndarray, masks: np.ndarray, bare: np.ndarray, figure: np.ndarray, ground: np.ndarray) -> float:
  """1 less the variation over time of the area of `masks`, and of the colours there and of the ground where it is `bare`.

  pixels (F, H, W, 3), masks and bare (F, H, W), the colours of figure and ground (3,).
  """
  area = masks.sum((1, 2))
  drift = [_drift(pixels, masks >= 0.9, figure), _drift(pixels, bare, ground)]
  return float(max(0.0, 1 - area.std() / area.mean() - max(drift) / np.linalg.norm(figure - ground)))


def _drift(pixels, where, colour):
  """Mean distance from `colour` of the mean colours that frames have at `where` (F, H, W)."""
  return float(np.mean([np.linalg.norm(frame[here].mean(0) - colour) for frame, here in zip(pixels, where) if here.any()] or [0]))


def steepness(masks: np.ndarray) -> float:
  """Mean slope of the masks (F, H, W) where they have one, weighted by itself: the inverse of the width of an edge."""
  dy, dx = masks[:, 1:, :-1] - masks[:, :-1, :-1], masks[:, :-1, 1:] - masks[:, :-1, :-1]
  slope = np.sqrt(dy**2 + dx**2)
  return float((slope**2).sum() / max(slope.sum(), 1e-9))


@functools.cache
def rendered_steepness(shape: str, side: float, extent: int) -> float:
  """The steepness of the shape rendered in frames of `extent` squared, at four places between two pixels."""
  places = [(extent / 2 + y / 2, extent / 2 + x / 2) for y in range(2) for x in range(2)]
  return steepness(cut(shrink(np.stack([shapes.coverage(shape, p, side * extent, extent, extent) for p in places]))))
