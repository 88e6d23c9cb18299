"""Which shapes there are, what they are called, and which clip goes where."""

import math

import pytest

from motif_jax.budget import recipe
from motif_jax.config import BucketConfig
from motif_jax.data import buckets


def test_a_bucket_has_one_name():
  assert buckets.parse(" 1x24x32,5x24x32, ") == (BucketConfig(5, 24, 32), BucketConfig(1, 24, 32))
  assert buckets.name(BucketConfig(5, 24, 32)) == "5x24x32"
  for text in ("", "5x24", "5x24x0", "a", "5x24x32x3", "-5x24x32", "5x145p", "144p", "0x144p"):
    with pytest.raises(ValueError, match="bucket"):
      buckets.parse(text)


def test_a_preset_stands_for_its_aspect_ratios():
  assert {buckets.name(b) for b in buckets.parse("33x144p,1x144x256")} == {
      "33x144x256", "33x160x224", "33x192x192", "33x224x160", "33x256x144", "1x144x256"}


@pytest.mark.parametrize("size, expected", [
    ((33, 144, 256), "33x144x256"), ((33, 400, 256), "33x256x144"), ((40, 256, 400), "33x144x256"), ((32, 144, 256), "9x144x256"),
    ((8, 144, 256), "1x144x256"), ((33, 143, 256), None), ((33, 144, 255), None), ((33, 256, 144), "33x256x144"),
    ((0, 256, 144), None),
])
def test_a_clip_goes_into_the_largest_bucket_that_it_fills(size, expected):
  chosen = buckets.choose(buckets.parse("33x144x256,33x256x144,9x144x256,1x144x256"), *size)
  assert (chosen and buckets.name(chosen)) == expected


@pytest.mark.parametrize("size, expected", [
    ((200, 1080, 1920), "121x736x1280"), ((121, 720, 1280), "121x704x1280"), ((121, 1920, 1080), "121x1280x736"),
    ((121, 1200, 1600), "121x832x1120"), ((121, 1100, 1100), "121x960x960"), ((121, 1440, 1080), "121x1120x832"),
    ((121, 480, 854), "121x480x832"), ((121, 640, 640), "121x640x640"), ((121, 360, 640), "121x352x640"),
    ((121, 480, 640), "121x416x576"), ((66, 1080, 1920), "65x480x832"), ((1, 3000, 4000), "1x832x1120"),
    ((64, 720, 1280), "1x704x1280"), ((200, 350, 640), None),
])
def test_of_buckets_nearly_as_large_the_nearest_aspect_ratio_is_taken(size, expected):
  known = buckets.parse("121x720p,121x480p,121x360p,65x480p,1x720p")
  chosen = buckets.choose(known, *size)
  assert (chosen and buckets.name(chosen)) == expected


@pytest.mark.parametrize("preset", buckets.PRESETS)
def test_the_shapes_of_a_preset_cost_about_the_same(preset):
  shapes = buckets.PRESETS[preset]
  assert shapes[0] == recipe.SIZES[preset]
  tokens = [height // 16 * (width // 16) for height, width in shapes]
  assert not any(side % 16 for shape in shapes for side in shape)
  assert all(abs(count / tokens[0] - 1) < 0.07 for count in tokens)
  assert preset == "144p" or not any(count % 8 for count in tokens), "routing has 8 groups"
  assert {shape[::-1] for shape in shapes} - {(480, 448)} <= set(shapes), "what fits lying down fits standing up"
  for aspect in (16 / 9, 4 / 3, 1, 3 / 4, 9 / 16):
    assert min(abs(math.log(width / height / aspect)) for height, width in shapes) < 0.08
