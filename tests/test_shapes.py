"""The embedded clips: what they show is what their captions say, and the held-out combinations stay out of training."""

import collections
import dataclasses
import hashlib
import itertools
import json
import re
import types

import numpy as np
import pytest

from motif_jax.data import shapes, videos

TRAIN, HELD_OUT = shapes.combinations(held_out=False), shapes.combinations(held_out=True)
SMALL = shapes.Clip("red", "square", "small", "still", "black")
VALUES = dict(colour=shapes.COLOURS, shape=shapes.SHAPES, size=shapes.SIZES, motion=shapes.MOTIONS, background=shapes.BACKGROUNDS)


def centres(video, clip):
  """Centroid (row, column) per frame, and area, of the pixels weighted by their distance from the background."""
  weight = np.abs(video.astype(float) - shapes.BACKGROUNDS[clip.background]).sum(-1)
  rows, columns = np.arange(video.shape[1]), np.arange(video.shape[2])
  area = weight.sum((1, 2))
  return np.stack([weight.sum(2) @ rows, weight.sum(1) @ columns], axis=1) / area[:, None], area


def test_the_split_holds_out_a_fifth_to_a_quarter_and_covers_everything():
  assert set(TRAIN) | set(HELD_OUT) == set(shapes.all_combinations()) and not set(TRAIN) & set(HELD_OUT)
  assert 0.20 <= len(HELD_OUT) / len(shapes.all_combinations()) <= 0.25


def test_the_size_does_not_decide_the_split():
  without = lambda clips: {dataclasses.replace(clip, size="small") for clip in clips}
  assert not without(TRAIN) & without(HELD_OUT)


def test_every_pair_of_values_occurs_in_training():
  pairs = collections.Counter(p for clip in TRAIN for p in itertools.combinations(dataclasses.asdict(clip).items(), 2))
  known = [p for (a, b) in itertools.combinations(VALUES, 2) for p in itertools.product(VALUES[a], VALUES[b])]
  assert len(pairs) == len(known) and min(pairs.values()) >= 8


def test_the_split_is_unchanged():
  digest = hashlib.sha256(repr([dataclasses.astuple(clip) for clip in HELD_OUT]).encode()).hexdigest()
  assert digest[:16] == "54cef63a9b98e8fd", (
      "The held-out combinations moved. Models trained before saw some that are now called unseen: if you meant it, paste the "
      "new digest, say so in the commit, and score no older checkpoint.")


def test_the_same_rng_renders_the_same_clip_and_another_one_elsewhere():
  a, b, c = (shapes.render(SMALL, np.random.default_rng(seed)) for seed in (1, 1, 2))
  assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("motion", shapes.MOTIONS)
@pytest.mark.parametrize("bucket", [(9, 32, 32), (5, 48, 80)])
def test_the_shape_travels_a_quarter_of_the_frame_and_stays_inside(motion, bucket):
  frames, height, width = bucket
  for seed, shape in enumerate(shapes.SHAPES):
    clip = shapes.Clip("yellow", shape, "large", motion, "black")
    video = shapes.render(clip, np.random.default_rng(seed), frames=frames, height=height, width=width)
    centre, area = centres(video, clip)
    moved = (centre[-1] - centre[0]) / (height, width)
    along = moved @ shapes.MOTIONS[motion]
    assert np.abs(moved - along * np.array(shapes.MOTIONS[motion])).max() < 0.02, "moved across its direction"
    assert along >= 0.24 if motion != "still" else along == 0
    assert area.std() < 0.03 * area.mean(), "part of it left the frame"


def test_up_is_towards_the_first_row_and_left_towards_the_first_column():
  moved = {}
  for motion in shapes.MOTIONS:
    clip = dataclasses.replace(SMALL, motion=motion)
    centre, _ = centres(shapes.render(clip, np.random.default_rng(0)), clip)
    moved[motion] = tuple(np.sign(np.round(centre[-1] - centre[0])))
  assert moved == dict(left=(0, -1), right=(0, 1), up=(-1, 0), down=(1, 0), still=(0, 0))


def test_one_frame_renders():
  assert shapes.render(SMALL, np.random.default_rng(0), frames=1, height=24, width=40).shape == (1, 24, 40, 3)


def test_colours_and_backgrounds_are_far_apart():
  palette = [*shapes.COLOURS.values(), *shapes.BACKGROUNDS.values()]
  assert min(np.linalg.norm(np.subtract(a, b)) for a, b in itertools.combinations(palette, 2)) > 90


def test_an_unknown_shape_is_named():
  with pytest.raises(ValueError, match="'star', expected one of square"):
    shapes.coverage("star", (8, 8), 6, 16, 16)


def test_captions_name_their_attributes_and_no_others():
  rng, words = np.random.default_rng(0), lambda text: set(re.findall(r"\w+", text))
  every = {value for values in VALUES.values() for value in values}
  for clip in shapes.all_combinations():
    own = set(dataclasses.astuple(clip))
    first_sentence = shapes.caption_long(clip, rng).split(".")[0]
    assert words(first_sentence) & every == own
    assert words(shapes.caption_short(clip)) & every == own - {clip.size}


def test_long_captions_vary():
  rng = np.random.default_rng(0)
  assert len({shapes.caption_long(SMALL, rng) for _ in range(40)}) == len(shapes.LONG)


def test_a_folder_holds_playable_clips_and_their_captions(tmp_path):
  shapes.write_folder(tmp_path / "a", 3, seed=7, bucket=(5, 32, 48), fps=12)
  lines = [json.loads(line) for line in (tmp_path / "a" / "captions.jsonl").read_text().splitlines()]
  assert sorted(line["file"] for line in lines) == sorted(p.name for p in (tmp_path / "a").glob("*.mp4"))
  assert len(lines) == 3 and all(set(line) == {"file", "long", "short"} for line in lines)
  probe = videos.probe(tmp_path / "a" / lines[0]["file"])
  assert (probe.frames, probe.height, probe.width, probe.fps) == (5, 32, 48, 12)
  clip = next(c for c in TRAIN if shapes.caption_short(c) == lines[0]["short"] and c.size in lines[0]["long"].split())
  video = videos.read_clip(tmp_path / "a" / lines[0]["file"], types.SimpleNamespace(frames=5, height=32, width=48))
  corner = np.median(video[:, :2].reshape(-1, 3), axis=0)
  assert np.abs(corner - shapes.BACKGROUNDS[clip.background]).max() < 8


def test_the_first_clips_of_a_folder_do_not_depend_on_its_length(tmp_path):
  captions = [(shapes.write_folder(tmp_path / str(n), n, seed=3, bucket=(1, 16, 16)) / "captions.jsonl").read_text()
              for n in (2, 4)]
  assert captions[1].startswith(captions[0])


@pytest.mark.parametrize("held_out", [False, True])
def test_a_folder_keeps_to_its_side_of_the_split(tmp_path, monkeypatch, held_out):
  monkeypatch.setattr(videos, "write_mp4", lambda *args, **kwargs: None)  # only the captions matter here
  side = TRAIN if not held_out else HELD_OUT
  shapes.write_folder(tmp_path, len(side), seed=5, bucket=(1, 8, 8), held_out=held_out)
  shorts = {json.loads(line)["short"] for line in (tmp_path / "captions.jsonl").read_text().splitlines()}
  assert shorts == {shapes.caption_short(clip) for clip in side}, "one pass covers each combination once"
