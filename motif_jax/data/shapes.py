"""The embedded data set: captioned clips of one moving shape, rendered from five attributes.

Shapes are coarse (half of the frame and more), colours far apart, and captions name every attribute, so that a small model learns
them in minutes on a CPU and `evaluate/shapes.py` can read them back.  About 22 % of the attribute combinations are held out
of training, while every value and every pair of values occurs in it: a model that scores there has learned to compose.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib

import numpy as np

from motif_jax.data import captioned

COLOURS = {
    "red": (225, 40, 40), "green": (40, 185, 60), "blue": (45, 75, 230), "yellow": (245, 215, 40), "magenta": (220, 60, 205),
}
NEW_COLOURS = {"orange": (245, 130, 30)}  # in no clip unless asked for by name: what a fine-tuned model has to learn
BACKGROUNDS = {"black": (16, 16, 16), "grey": (128, 128, 128), "white": (238, 238, 238), "teal": (0, 130, 140)}
MOTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}  # direction in (row, column)
SHAPES = ("square", "triangle", "ring", "cross")
SIZES = {"small": 0.5, "large": 0.64}  # side of the bounding box, as a share of the shorter side of the frame

TRAVEL = (0.26, 0.34)  # distance covered over a clip, as a share of the frame along the motion
HELD_OUT_PERCENT = 22
SUPERSAMPLE = 4  # points per axis and pixel, for anti-aliased edges

# The first sentence holds all, because the truncated caption of the recipe is the first sentence.
LONG = (
    "A {size} {colour} {shape} {moves} on a {background} background. Nothing else is in the picture.",
    "On a {background} background, a {size} {colour} {shape} {moves}. The view is fixed.",
    "The clip shows a {size} {colour} {shape} that {moves} in front of a {background} background. The light is even.",
    "A {colour} {shape}, {size} in the frame, {moves} over a {background} background. It keeps its colour.",
)
SHORT = "a {colour} {shape} {moves} on {background}"


@dataclasses.dataclass(frozen=True)
class Clip:
  """What a clip shows; the position of the shape and its exact speed are left to chance."""

  colour: str
  shape: str
  size: str
  motion: str
  background: str

  @property
  def held_out(self) -> bool:
    """Whether this combination never occurs in training.  The size does not count: it is not scored."""
    return unseen(f"{self.colour} {self.shape} {self.motion} {self.background}")


def unseen(combination: str) -> bool:
  """Whether training must not see this combination of words: some 22 % of all, always the same."""
  digest = hashlib.sha256(combination.encode()).digest()
  return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def all_combinations() -> tuple[Clip, ...]:
  """Every `Clip`, in a fixed order."""
  return tuple(Clip(*values) for values in itertools.product(COLOURS, SHAPES, SIZES, MOTIONS, BACKGROUNDS))


def combinations(*, held_out: bool, colour: str | None = None) -> tuple[Clip, ...]:
  """The clips of one side of the split: those held out, or those of training; with `colour`, a new one, all in that colour."""
  if colour not in (None, *NEW_COLOURS):
    raise ValueError(f"the colour {colour!r} is not one of the new ones, {', '.join(NEW_COLOURS)}; leave it out for all others.")
  known = dict.fromkeys(dataclasses.replace(clip, colour=colour or clip.colour) for clip in all_combinations())
  return tuple(clip for clip in known if clip.held_out == held_out)


def caption_long(clip: Clip, rng: np.random.Generator) -> str:
  """A caption of one or two sentences that names every attribute, from a template that `rng` picks."""
  return _fill(LONG[rng.integers(len(LONG))], clip)


def caption_short(clip: Clip) -> str:
  """A caption of a few words, without the size."""
  return _fill(SHORT, clip)


def captions(clip: Clip, rng: np.random.Generator) -> dict[str, str]:
  """Its captions by their column."""
  return dict(long=caption_long(clip, rng), short=caption_short(clip))


def _fill(template: str, clip: Clip) -> str:
  moves = "stays still" if clip.motion == "still" else f"moves {clip.motion}"
  return template.format(moves=moves, **dataclasses.asdict(clip))


def render(clip: Clip, rng: np.random.Generator, *, frames: int = 9, height: int = 32, width: int = 32) -> np.ndarray:
  """Frames (F, H, W, 3) uint8 of the clip.  `rng` draws the place and the distance covered; the shape never leaves the frame."""
  side = SIZES[clip.size] * min(height, width)
  extent, direction = np.array([height, width], np.float64), np.array(MOTIONS[clip.motion])
  travel = rng.uniform(*TRAVEL) * extent * direction
  low = side / 2 + np.maximum(0, -travel)  # a shape that moves left must start far enough right
  high = extent - side / 2 - np.maximum(0, travel)
  start = rng.uniform(np.minimum(low, high), np.maximum(low, high))
  share = np.linspace(0, 1, frames)[:, None] if frames > 1 else np.zeros((1, 1))
  colour, background = (np.array(c, np.float64) for c in ((COLOURS | NEW_COLOURS)[clip.colour], BACKGROUNDS[clip.background]))
  masks = [coverage(clip.shape, centre, side, height, width)[..., None] for centre in start + share * travel]
  return np.stack([np.round(background + mask * (colour - background)).astype(np.uint8) for mask in masks])


def coverage(shape: str, centre, side: float, height: int, width: int) -> np.ndarray:
  """How much of each pixel (H, W) shows the shape, its bounding box of `side` pixels centred at `centre` (row, column).

  Edges are about two pixels soft, as a lens makes them: harder ones cost the block codec 4 dB and teach the model nothing.
  """
  s = SUPERSAMPLE
  y = ((np.arange(height * s) + 0.5) / s - centre[0])[:, None] / side
  x = ((np.arange(width * s) + 0.5) / s - centre[1])[None, :] / side
  sharp = np.pad(inside(shape, y, x).reshape(height, s, width, s).mean((1, 3)), 1)
  rows = (sharp[:-2] + 2 * sharp[1:-1] + sharp[2:]) / 4
  return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4


def inside(shape: str, y, x) -> np.ndarray:
  """Whether points lie in the shape, in coordinates where its bounding box is [-0.5, 0.5] and y points down."""
  box = np.maximum(np.abs(y), np.abs(x)) <= 0.5
  if shape == "square":
    return np.maximum(np.abs(y), np.abs(x)) <= 0.46
  if shape == "triangle":
    return box & (np.abs(x) <= (y + 0.5) / 2)
  if shape == "ring":
    radius = np.sqrt(np.square(y) + np.square(x))
    return (radius <= 0.5) & (radius >= 0.22)
  if shape == "cross":
    return box & (np.minimum(np.abs(y), np.abs(x)) <= 0.16)
  raise ValueError(f"shape is {shape!r}, expected one of {', '.join(SHAPES)}.")


def write_folder(path, count: int, *, seed: int, bucket: tuple[int, int, int] = (9, 32, 32), fps: int = 8,
                 held_out: bool = False, colour: str | None = None) -> pathlib.Path:
  """The folder `path`, filled with `count` H.264 clips and captions.jsonl; see `captioned.write_folder`."""
  frames, height, width = bucket
  return captioned.write_folder(
      path, combinations(held_out=held_out, colour=colour), count,
      functools.partial(render, frames=frames, height=height, width=width),
      captions, seed=seed, fps=fps)
