"""The judge reads real clips rightly, also through a codec, blur and noise; it gives nothing to shuffled prompts or noise."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.data import shapes, videos
from motif_jax.encoders import registry
from motif_jax.encoders.block_dct import BlockDCT
from motif_jax.evaluate import shapes as judge

BLOCKS = [name for name, make in registry.CODECS.items() if isinstance(make(), BlockDCT)]
SOFTEST = {"block_dct_4_16_16": 0.65}  # least sharpness, of a codec that keeps a 48th of the numbers
ODD = (np.arange(9) % 2 == 1)[:, None, None, None]  # every other of nine frames


def rendered(count, seed=0, frames=9, height=32, width=32):
  """Videos (B, F, H, W, 3) uint8 and their clips, spread evenly over all combinations."""
  rng = np.random.default_rng(seed)
  known = shapes.all_combinations()
  clips = [known[i] for i in rng.permutation(len(known))[:count]]
  return np.stack([shapes.render(c, rng, frames=frames, height=height, width=width) for c in clips]), clips


def to_uint8(x):
  return np.clip(np.round(np.asarray(x)), 0, 255).astype(np.uint8)


def blurred(video):
  """The video with each pixel averaged with its neighbours, twice."""
  for _ in range(2):
    padded = np.pad(video.astype(float), ((0, 0),) * (video.ndim - 3) + ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[..., :-2, :, :] + padded[..., 1:-1, :, :] + padded[..., 2:, :, :]) / 3
    video = (rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]) / 3
  return to_uint8(video)


@pytest.mark.parametrize("name", BLOCKS)
def test_clips_are_read_at_98_percent_after_the_codec_round_trip(name):
  codec = registry.CODECS[name]()
  side = 4 * max(8, codec.strides[1])  # coarse codecs are for larger frames
  video, clips = rendered(200 * 32**2 // side**2, height=side, width=side)
  decoded = to_uint8(127.5 * (codec.decode(codec.encode(jnp.asarray(video / 127.5 - 1))) + 1))
  scores = judge.score(decoded, clips)
  assert min(scores[name] for name in judge.ATTRIBUTES) >= 0.98
  assert scores["steadiness"] > 0.9 and SOFTEST.get(name, 0.8) < scores["sharpness"] < 1.2


def test_shuffled_prompts_score_at_chance():
  video, clips = rendered(400)
  scores = judge.score(video, [clips[i] for i in np.random.default_rng(1).permutation(len(clips))])
  for name, chance in judge.CHANCE.items():
    assert abs(scores[name] - chance) < 4 * np.sqrt(chance * (1 - chance) / len(clips)), name
  assert scores["all"] < 0.02


def test_blur_and_noise_together_cost_little():
  video, clips = rendered(120)
  worn = to_uint8(blurred(video) + np.random.default_rng(1).normal(0, 12, video.shape))
  scores = judge.score(worn, clips)
  assert min(scores[name] for name in judge.SCORED) >= 0.95


def test_files_are_read_back_as_their_captions_say(tmp_path):
  shapes.write_folder(tmp_path, 8, seed=2)
  bucket = types.SimpleNamespace(frames=9, height=32, width=32)
  for line in map(json.loads, (tmp_path / "captions.jsonl").read_text().splitlines()):
    reading = judge.read(videos.read_clip(tmp_path / line["file"], bucket))
    seen = shapes.Clip(**{name: getattr(reading, name) for name in judge.ATTRIBUTES})
    assert shapes.caption_short(seen) == line["short"] and seen.size in line["long"].split()


@pytest.mark.parametrize("bucket", [(5, 64, 96), (17, 48, 32)])
def test_other_sizes_are_read_as_well(bucket):
  video, clips = rendered(40, frames=bucket[0], height=bucket[1], width=bucket[2])
  scores = judge.score(video, clips)
  assert scores["all"] == 1 and 0.8 < scores["sharpness"] < 1.25


def test_an_image_is_read_as_still():
  video, clips = rendered(10, frames=1)
  for frame, clip in zip(video, clips):
    reading = judge.read(frame)
    assert (reading.colour, reading.shape, reading.motion) == (clip.colour, clip.shape, "still")


@pytest.mark.parametrize("video", [
    np.full((9, 32, 32, 3), 238, np.uint8),
    np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8),
], ids=["empty", "noise"])
def test_nothing_is_seen_where_there_is_no_shape(video):
  reading = judge.read(video)
  assert (reading.colour, reading.shape, reading.motion, reading.sharpness, reading.steadiness) == ("none",) * 3 + (0, 0)


def test_blur_lowers_the_sharpness():
  video, _ = rendered(12)
  assert all(judge.read(blurred(v)).sharpness < 0.85 * judge.read(v).sharpness for v in video)


@pytest.mark.parametrize("change", ["light", "tint", "area"])
def test_flicker_lowers_the_steadiness(change):
  clip = shapes.Clip("yellow", "square", "large", "still", "black")
  video = shapes.render(clip, np.random.default_rng(0))
  other = {
      "light": video // 2,
      "tint": video[..., [0, 1, 1]],  # yellow with as much blue as green: white, as large as before
      "area": shapes.render(shapes.Clip("yellow", "square", "small", "still", "black"), np.random.default_rng(0)),
  }[change]
  assert judge.read(video).steadiness > 0.95 and judge.read(np.where(ODD, other, video)).steadiness < 0.85


def test_a_shape_seen_in_few_frames_is_none():
  video = shapes.render(shapes.Clip("blue", "cross", "large", "left", "grey"), np.random.default_rng(0))
  video[3:] = shapes.BACKGROUNDS["grey"]
  assert judge.read(video).shape == "none"


def test_fine_noise_averages_out_in_large_frames():
  video, clips = rendered(20, frames=5, height=96, width=128)
  noisy = to_uint8(video + np.random.default_rng(0).normal(0, 60, video.shape))
  assert judge.score(noisy, clips)["all"] >= 0.95


def test_a_background_of_another_colour_is_the_only_thing_read_wrong():
  clip = shapes.Clip("red", "cross", "large", "up", "white")
  video = shapes.render(clip, np.random.default_rng(0))
  scores = judge.score([video], [shapes.Clip("red", "cross", "large", "up", "grey")])
  assert (scores["background"], scores["all"]) == (0, 0) and scores["colour"] == scores["shape"] == scores["motion"] == 1


def test_bad_input_is_refused():
  video, clips = rendered(2)
  with pytest.raises(ValueError, match="2 videos and 1 clips"):
    judge.score(video, clips[:1])
  with pytest.raises(ValueError, match="float64"):
    judge.read(video[0] / 255)
