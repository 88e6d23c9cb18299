"""A judge of generated clips of two things: classical vision that reads back which things are where and what each of them does.

It assumes two things of different colours on one background, as `data.scenes` renders them, and stands some blur and noise.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math

import numpy as np

from motif_jax.data import captioned, scenes, shapes
from motif_jax.data.scenes import Scene, Thing
from motif_jax.evaluate import vision

NONE = "none"  # read where there is nothing to see; never right
AREA = 0.03  # least share of the frame that a thing covers: a third of what a rendered one does
SIDES = np.linspace(0.30, 0.54, 13)  # template sizes that things are compared with, as shares of the frame's shorter side
FAR = 80.0  # distance of a pixel from what two colours and the background can mix beyond which it counts no more against them


def _chance() -> dict[str, float]:
  """What a clip of a random scene would score."""
  colours, motions = len(shapes.COLOURS), [set(scenes.motions(relation)) for relation in scenes.RELATIONS]
  placed = 1 / math.perm(colours, 2) / len(motions)
  shape, background = 1 / len(shapes.SHAPES), 1 / len(shapes.BACKGROUNDS)
  still = [len(a & b) / (len(a) * len(b)) for a in motions for b in motions]  # that one thing moves as another
  return dict(colour=1 / math.comb(colours, 2), relation=1 / len(motions), placed=placed, shape=shape,
              binding=placed * shape**2, motion=float(np.mean(np.square(still))), background=background,
              all=placed * shape**2 * still[0] ** 2 * background)


CHANCE = _chance()


@dataclasses.dataclass(frozen=True)
class Reading:
  """What the judge sees in one clip.  `steadiness` and `sharpness` are about 1 for rendered clips, 0 where nothing is seen."""

  scene: Scene
  steadiness: float  # 1 less the variation over time of areas and colours, the mean of both things
  sharpness: float  # steepness of their edges, as a share of that of rendered ones


def read(video: np.ndarray) -> Reading:
  """The `Reading` of a clip (F, H, W, 3) uint8.  The axis along which the two centres are further apart is the relation."""
  pixels = vision.pixels_of(video)
  ground = vision.border_colour(pixels)
  background = vision.nearest(ground, shapes.BACKGROUNDS)
  found = _masks(pixels, ground)
  bare = np.all([masks == 0 for masks in found.values()], axis=0)
  seen = {colour: masks.mean((1, 2)) >= AREA for colour, masks in found.items()}
  if any(shown.sum() < (len(shown) + 1) // 2 for shown in seen.values()):
    nothing = Thing(NONE, NONE, NONE)
    return Reading(Scene(nothing, nothing, NONE, background), 0.0, 0.0)
  things, places, steadiness, sharpness = [], [], [], []
  for colour, masks in found.items():
    shown = masks[seen[colour]]
    centres = np.stack([vision.centre(mask) for mask in shown])
    shape, side = vision.match(vision.centred_mean(shown, centres), SIDES)
    things.append(Thing(colour, shape, vision.motion(np.flatnonzero(seen[colour]), centres, pixels.shape[:3])))
    places.append(centres.mean(0) / pixels.shape[1:3])
    figure = np.median(pixels[masks >= min(0.75, masks.max())], axis=0)
    steadiness.append(vision.steadiness(pixels, masks, bare, figure, ground))
    sharpness.append(vision.steepness(shown) / vision.rendered_steepness(shape, side, min(video.shape[1:3])))
  apart = places[1] - places[0]
  relation = max(scenes.RELATIONS, key=lambda name: abs(np.dot(scenes.RELATIONS[name], apart)))
  first, second = things if np.dot(scenes.RELATIONS[relation], apart) > 0 else things[::-1]
  return Reading(Scene(first, second, relation, background), float(np.mean(steadiness)), float(np.mean(sharpness)))


def score(videos: Sequence[np.ndarray], shown: Sequence[Scene]) -> dict[str, float]:
  """Shares of `videos` read as the scenes `shown` say, by what is right; see `hits`.  With mean qualities."""
  if len(videos) != len(shown) or not len(videos):
    raise ValueError(f"got {len(videos)} videos and {len(shown)} scenes, expected as many of both, and at least one.")
  readings = [read(video) for video in videos]
  rows = [hits(reading.scene, scene) for reading, scene in zip(readings, shown)]
  return {
      **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
      "steadiness": float(np.mean([r.steadiness for r in readings])),
      "sharpness": float(np.mean([r.sharpness for r in readings])),
  }


def hits(seen: Scene, asked: Scene) -> dict[str, float]:
  """What is right in a scene, 0 or 1 each, of `shape` the mean of both things.

  colour: the two colours, wherever.  relation: beside or above each other.  placed: the relation, and each colour at its end of
  it.  shape: that of the thing at either end, of whatever colour.  binding: placed, and both shapes: each colour has its place
  and its shape.  motion: that of both things, at their ends.  all: binding, motion and background.
  """
  pairs = [(seen.first, asked.first), (seen.second, asked.second)]
  same = lambda name: [getattr(a, name) == getattr(b, name) for a, b in pairs]
  relation, background = seen.relation == asked.relation, seen.background == asked.background
  placed = relation and all(same("colour"))
  binding, motion = placed and all(same("shape")), all(same("motion"))
  return dict(colour={seen.first.colour, seen.second.colour} == {asked.first.colour, asked.second.colour}, relation=relation,
              placed=placed, shape=float(np.mean(same("shape"))), binding=binding, motion=motion, background=background,
              all=binding and motion and background)


def held_out_prompts(count: int, seed: int, colour: str | None = None) -> tuple[list[Scene], list[str]]:
  """`count` scenes whose things training never saw together like this, as evenly as can be, and a long caption of each."""
  rng = np.random.default_rng(seed)
  shown = captioned.spread(scenes.combinations(held_out=True, colour=colour), count, rng)
  return shown, [scenes.caption_long(scene, rng) for scene in shown]


def _masks(pixels, ground):
  """{colour: how much of each pixel (F, H, W) it covers} of the two whose mixtures with the ground explain the clip best."""
  shares, errors = {}, {}
  for name, colour in shapes.COLOURS.items():
    colour = np.array(colour, np.float64)
    shares[name] = vision.share_of(pixels, ground, colour)
    mixed = ground + np.clip(shares[name], 0, 1)[..., None] * (colour - ground)
    errors[name] = np.minimum(np.linalg.norm(pixels - mixed, axis=-1), FAR)
  pair = min(itertools.combinations(shapes.COLOURS, 2), key=lambda pair: np.minimum(errors[pair[0]], errors[pair[1]]).sum())
  return {a: np.where(errors[a] <= errors[b], vision.cut(shares[a]), 0.0) for a, b in (pair, pair[::-1])}
