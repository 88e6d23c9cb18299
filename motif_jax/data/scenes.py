"""The harder embedded data set: captioned clips of two things in a relation, each with its own colour, shape and motion.

One shape (`data/shapes.py`) asks a model which words of a caption count; two ask which words belong together: what colour the
ring has, which of the two is above, which of them moves.  So they have different colours, and all else is drawn for each on its
own.  A thing stays still or moves across the line between them, so that they never meet and the relation stays true.

Captions can be told apart by words and their neighbours alone, all that the embedded text encoder (`encoders/word_hash.py`)
gives: the colour stands beside the shape and beside the motion ("red moves up"), and the shape between its colour and the
relation, or a colour behind "above a".  With "a red square is to the left of", where no word has both for a neighbour, the demo's
model did not learn left from right (docs/scenes.md).  Long ones go on with sentences about what is *not* to be seen, in the
same words, but never with "a ring".
"""

import dataclasses
import functools
import itertools
import pathlib

import numpy as np

from motif_jax.data import captioned, shapes
from motif_jax.data.shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

# The direction (row, column) from the first thing to the second, and how captions say it, from the first and from the second.
RELATIONS = {"left of": (0, 1), "above": (1, 0)}
SAID = {"left of": ("left of", "right of"), "above": ("above", "below")}

SIDE = 0.42  # of the bounding boxes, as a share of the shorter side of the frame
GAP = 0.05  # least distance between the two boxes, as a share of the frame along the relation
PLACE = (0.19, 0.31)  # how far from its end of the frame a thing's centre lies along the relation, as far as its size lets it
MIDDLE = 0.5 - SIDE / 2 - shapes.TRAVEL[1] / 2  # how far from the frame's middle that of its way may lie, so that it never leaves

# The first sentence holds all, because the truncated caption of the recipe is the first sentence.
LONG = (
    "A {a} {relation} a {b} on a {background} background, {a_colour} {a_moves} and {b_colour} {b_moves}.",
    "On a {background} background, a {a} {relation} a {b}, {b_colour} {b_moves}, {a_colour} {a_moves}.",
    "This is a {a} {relation} a {b} in front of a {background} background, {a_colour} {a_moves} while {b_colour} {b_moves}.",
    "Over a {background} background {a_colour} {a_moves} and {b_colour} {b_moves}, a {a} {relation} a {b}.",
)
DISTRACTING = (
    "Nobody brought the {colour} {shape} that morning, although it had been promised.",
    "The caretaker put the {colour} paint back on the upper shelf before lunch.",
    "It took them years to agree on the name of the {shape} club by the harbour.",
    "Some visitors would have liked the {colour} {shape} better than what they got.",
    "My uncle sold the {colour} car below its price and never spoke of it again.",
    "In another film, shown next door, the {colour} {shape} wins in the end.",
    "The radio promised rain, so that the {colour} boat turned right and went home.",
    "The projector hummed, somebody coughed, and the usher counted the seats twice.",
)
DISTRACTIONS = 2  # sentences of them in a long caption
SHORT = "a {a} {relation} a {b} on {background}, {a_colour} {a_moves}, {b_colour} {b_moves}"


@dataclasses.dataclass(frozen=True)
class Thing:
  colour: str
  shape: str
  motion: str


@dataclasses.dataclass(frozen=True)
class Scene:
  """What a clip shows; exact places and speeds are left to chance."""

  first: Thing  # the left one or the upper one
  second: Thing
  relation: str
  background: str

  @property
  def held_out(self) -> bool:
    """Whether these two colours and shapes in these places never occur in training."""
    return _held_out(self.first.colour, self.first.shape, self.second.colour, self.second.shape, self.relation)


@functools.cache
def _held_out(*words):
  return shapes.unseen(" ".join(words))


def motions(relation: str) -> tuple[str, ...]:
  """The motions that things in this relation may have: across it, or none."""
  return tuple(name for name, direction in MOTIONS.items() if np.dot(direction, RELATIONS[relation]) == 0)


@functools.cache
def all_combinations() -> tuple[Scene, ...]:
  """Every `Scene`, in a fixed order."""
  return tuple(
      Scene(Thing(a, shape_a, motion_a), Thing(b, shape_b, motion_b), relation, background)
      for (a, b), shape_a, shape_b, relation in itertools.product(itertools.permutations(COLOURS, 2), SHAPES, SHAPES, RELATIONS)
      for motion_a, motion_b, background in itertools.product(motions(relation), motions(relation), BACKGROUNDS))


def combinations(*, held_out: bool, colour: str | None = None) -> tuple[Scene, ...]:
  """The scenes of one side of the split: those held out, or those of training.  There is no new `colour`."""
  if colour:
    raise ValueError(f"the colour {colour!r} was asked for, but only the set of single shapes has new colours; leave it out.")
  return tuple(scene for scene in all_combinations() if scene.held_out == held_out)


def caption_long(scene: Scene, rng: np.random.Generator) -> str:
  """A sentence that names everything, from a template, a side and an order that `rng` picks, and others that say nothing."""
  said = _fill(LONG[rng.integers(len(LONG))], scene, turned=rng.random() < 0.5)
  absent = [colour for colour in COLOURS if colour not in (scene.first.colour, scene.second.colour)]
  picked = rng.choice(len(DISTRACTING), DISTRACTIONS, replace=False)
  return " ".join([said, *(DISTRACTING[i].format(colour=rng.choice(absent), shape=rng.choice(SHAPES)) for i in picked)])


def caption_short(scene: Scene, rng: np.random.Generator) -> str:
  """A terse sentence that names everything, seen from the one or from the other thing."""
  return _fill(SHORT, scene, turned=rng.random() < 0.5)


def captions(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
  """Its captions by their column."""
  return dict(long=caption_long(scene, rng), short=caption_short(scene, rng))


def _fill(template, scene, *, turned):
  """The template, told from the first thing, or from the second."""
  a, b = (scene.second, scene.first) if turned else (scene.first, scene.second)
  moves = lambda thing: "stays still" if thing.motion == "still" else f"moves {thing.motion}"
  return template.format(a=f"{a.colour} {a.shape}", b=f"{b.colour} {b.shape}", a_colour=a.colour, b_colour=b.colour,
                         a_moves=moves(a), b_moves=moves(b), relation=SAID[scene.relation][turned], background=scene.background)


def render(scene: Scene, rng: np.random.Generator, *, frames: int = 9, height: int = 32, width: int = 32) -> np.ndarray:
  """Frames (F, H, W, 3) uint8 of the scene.  `rng` draws places and distances; the things neither meet nor leave the frame."""
  side = SIDE * min(height, width)
  video = np.broadcast_to(np.array(BACKGROUNDS[scene.background], np.float64), (frames, height, width, 3))
  for thing, end in ((scene.first, 0), (scene.second, 1)):
    centres = _way(thing, end, scene.relation, side, rng, frames, np.array([height, width], np.float64))
    masks = np.stack([shapes.coverage(thing.shape, centre, side, height, width)[..., None] for centre in centres])
    video = video + masks * (np.array(COLOURS[thing.colour]) - video)
  return np.round(video).astype(np.uint8)


def _way(thing, end, relation, side, rng, frames, extent):
  """The centres (F, 2) of a thing, of boxes of `side` pixels, at one `end` of a frame of `extent`: 0 is the left or upper one."""
  along = RELATIONS[relation].index(1)
  share = side / extent[along]
  middle = 0.5 + rng.uniform(-MIDDLE, MIDDLE, size=2)
  from_end = rng.uniform(max(PLACE[0], share / 2), min(PLACE[1], (1 - GAP - share) / 2))
  middle[along] = 1 - from_end if end else from_end
  travel = rng.uniform(*shapes.TRAVEL) * np.array(MOTIONS[thing.motion])
  time = np.linspace(-0.5, 0.5, frames)[:, None] if frames > 1 else np.zeros((1, 1))
  return (middle + time * travel) * extent


def write_folder(path, count: int, *, seed: int, bucket: tuple[int, int, int] = (9, 32, 32), fps: int = 8,
                 held_out: bool = False, colour: str | None = None) -> pathlib.Path:
  """The folder `path`, filled with `count` H.264 clips and captions.jsonl; see `captioned.write_folder`."""
  frames, height, width = bucket
  return captioned.write_folder(
      path, combinations(held_out=held_out, colour=colour), count,
      functools.partial(render, frames=frames, height=height, width=width),
      captions, seed=seed, fps=fps)
