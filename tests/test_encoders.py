"""What every codec, text encoder and teacher of the registry promises, and what the weightless ones promise beyond that."""

import jax
import numpy as np
import pytest

from motif_jax.data import shapes
from motif_jax.encoders import registry
from motif_jax.encoders.block_dct import BlockDCT, basis
from motif_jax.encoders.gradients import Gradients
from motif_jax.encoders.word_hash import WordHash, words

BLOCKS = [name for name, make in registry.CODECS.items() if isinstance(make(), BlockDCT)]
DECIBELS = {"block_dct_16": 29.0}  # the narrowest one trades detail for channels; all others keep 30
FILMS = {"block_dct_4_16_16": dict(count=20, frames=33, height=64, width=64)}  # what it is for; all others are for 9x32x32
each_codec = pytest.mark.parametrize("name", registry.CODECS)
each_block = pytest.mark.parametrize("name", BLOCKS)
each_text = pytest.mark.parametrize("name", registry.TEXTS)
each_image = pytest.mark.parametrize("name", [name for name in registry.IMAGES if name != "none"])
each_teacher = pytest.mark.parametrize("name", [name for name in registry.TEACHERS if name != "none"])


def clips(count=60, frames=9, seed=0, height=32, width=32):
  rng = np.random.default_rng(seed)
  known = shapes.all_combinations()
  picked = rng.choice(len(known), count, replace=False)
  video = np.stack([shapes.render(known[i], rng, frames=frames, height=height, width=width) for i in picked])
  return video.astype(np.float32) / 127.5 - 1


def described(video, times):
  """Features of the `Gradients` teacher; compiled as one, which is faster than operation by operation."""
  return np.asarray(jax.jit(Gradients().encode, static_argnums=1)(video, times))


def small(codec, blocks=2):
  """A noise video of `blocks` + 1 latent frames that the codec can code, of unequal height and width."""
  t, h, w = codec.strides
  return np.random.default_rng(1).uniform(-1, 1, (2, blocks * t + 1, 2 * h, 3 * w, 3)).astype(np.float32)


# Codecs.


@each_codec
def test_a_codec_has_the_shapes_it_announces(name):
  codec = registry.CODECS[name]()
  video = small(codec)
  latents = codec.encode(video)
  assert codec.name == name and isinstance(codec.version, str) and isinstance(hash(codec), int)
  assert latents.shape == (2, *codec.grid(*video.shape[1:4]), codec.channels) == (2, 3, 2, 3, codec.channels)
  assert latents.dtype == np.float32 and codec.decode(latents).shape == video.shape


@each_codec
def test_the_latent_of_frame_0_is_that_of_the_single_image(name):
  codec = registry.CODECS[name]()
  video = small(codec)
  np.testing.assert_allclose(codec.encode(video)[:, :1], codec.encode(video[:, :1]), atol=1e-5)


@each_codec
def test_a_latent_depends_on_no_later_frame(name):
  codec = registry.CODECS[name]()
  video, t = small(codec), codec.strides[0]
  changed = video.copy()
  changed[:, t + 1:] *= -1
  before, after = np.asarray(codec.encode(video)), np.asarray(codec.encode(changed))
  np.testing.assert_allclose(before[:, :2], after[:, :2], atol=1e-5)
  assert np.abs(before[:, 2] - after[:, 2]).max() > 0.1


@each_codec
def test_a_size_that_does_not_fit_names_the_nearest_ones(name):
  codec = registry.CODECS[name]()
  t, h, w = codec.strides
  with pytest.raises(ValueError) as error:
    codec.encode(np.zeros((1, t + 2, 2 * h + 1, w - 1, 3), np.float32))
  for text in (f"frames {t + 2}", f"nearest: {t + 1}, {2 * t + 1}", f"height {2 * h + 1}", f"{2 * h}, {3 * h}", f"width {w - 1}"):
    assert text in str(error.value)
  with pytest.raises(ValueError, match="frames 0"):
    codec.grid(0, h, w)


@each_codec
def test_latent_times_are_the_mean_times_of_the_frames_coded_together(name):
  codec = registry.CODECS[name]()
  t = codec.strides[0]
  expected = [0.0] + [np.mean(np.arange(t * i + 1, t * i + t + 1)) for i in range(3)]
  assert codec.latent_times(3 * t + 1) == pytest.approx(expected)
  assert codec.latent_times(1) == (0.0,)


@each_codec
def test_a_codec_gives_the_same_under_jit(name):
  codec = registry.CODECS[name]()
  video = small(codec)
  latents = codec.encode(video)
  np.testing.assert_allclose(jax.jit(codec.encode)(video), latents, atol=1e-5)
  np.testing.assert_allclose(jax.jit(codec.decode)(latents), codec.decode(latents), atol=1e-5)


@each_block
def test_a_block_codec_is_orthonormal(name):
  codec = registry.CODECS[name]()
  table = basis(codec.strides, codec.channels).astype(np.float64)
  np.testing.assert_allclose(table.T @ table, np.eye(codec.channels), atol=1e-6)
  latents = np.array(codec.encode(small(codec)))  # of a video, so that frame 0 is a still block
  latents[:, 1:] = np.random.default_rng(2).standard_normal(latents[:, 1:].shape)
  np.testing.assert_allclose(codec.encode(codec.decode(latents)), latents, atol=2e-5)


@each_block
def test_a_block_codec_keeps_its_decibels_and_unit_power_on_the_embedded_clips(name):
  codec, video = registry.CODECS[name](), clips(**FILMS.get(name, {}))
  latents = codec.encode(video)
  error = np.clip(codec.decode(latents), -1, 1) - video
  assert 10 * np.log10(4 / np.square(error).mean()) >= DECIBELS.get(name, 30)
  assert 0.8 < np.square(latents).mean() < 1.2


@each_block
def test_a_still_clip_has_equal_latents_in_all_frames(name):
  codec = registry.CODECS[name]()
  latents = codec.encode(np.repeat(small(codec)[:, :1], 2 * codec.strides[0] + 1, axis=1))
  np.testing.assert_allclose(latents[:, 1:], np.repeat(latents[:, :1], 2, axis=1), atol=1e-5)


@each_block
def test_frame_0_ignores_channels_that_only_a_moving_block_has(name):
  codec = registry.CODECS[name]()
  used = np.abs(codec.encode(small(codec)[:, :1])).max((0, 1, 2, 3)) > 1e-4
  latents = np.random.default_rng(2).standard_normal((2, 1, 2, 3, codec.channels)).astype(np.float32)
  assert 0 < used.sum() < codec.channels
  np.testing.assert_allclose(codec.decode(latents), codec.decode(latents * used), atol=1e-5)


def test_a_block_with_all_coefficients_loses_nothing():
  codec = BlockDCT(strides=(2, 2, 3), channels=36)
  video = small(codec)
  np.testing.assert_allclose(codec.decode(codec.encode(video)), video, atol=1e-5)


def test_more_channels_than_coefficients_are_refused():
  with pytest.raises(ValueError, match="channels is 37, expected at most 36"):
    BlockDCT(strides=(2, 2, 3), channels=37).encode(np.zeros((1, 3, 2, 3, 3)))


# Texts.


@pytest.mark.parametrize("name, cut", [("word_hash", "left now"), ("word_hash_mean", "")])
def test_what_lies_beyond_the_tokens_is_told(name, cut):
  text = registry.TEXTS[name]()
  assert text.beyond("a red square moves left now", 5) == cut and text.beyond("a red square", 5) == ""


@each_text
def test_a_text_encoder_gives_a_row_per_token_and_one_for_nothing(name):
  text = registry.TEXTS[name]()
  empty, one, many = text.encode(["", "red", "a red square moves left"])
  assert text.name == name and isinstance(text.version, str)
  assert empty.shape == (1, text.dim) and one.shape[1] == text.dim
  assert len(many) == len(one) == 1 if name.endswith("_mean") else len(many) > len(one) > 1
  assert all(e.dtype == np.float32 for e in (empty, one, many))


@each_text
def test_a_caption_alone_equals_the_caption_among_others(name):
  text = registry.TEXTS[name]()
  np.testing.assert_allclose(text.encode(["a blue ring"])[0], text.encode(["", "a blue ring", "x"])[1], atol=1e-5)


def test_a_sentence_is_the_mean_of_its_tokens():
  mean, tokens = registry.TEXTS["word_hash_mean"](), WordHash()
  np.testing.assert_allclose(mean.encode(["a blue ring"])[0][0], tokens.encode(["a blue ring"])[0].mean(0), rtol=1e-6)
  assert mean.dim == tokens.dim  # so that a text embedder goes on with the tokens


def test_words_are_lower_case_and_punctuation_stands_apart():
  assert words("A RED square, on black.") == ["a", "red", "square", ",", "on", "black", "."]


def test_a_word_keeps_its_own_part_and_shows_its_neighbours():
  text = WordHash()
  square, background, other = text.encode(["blue square", "blue background", "red square"])
  own = text.word_dim
  assert np.array_equal(square[2, :own], other[2, :own]) and not np.array_equal(square[2, own:], other[2, own:])
  assert np.array_equal(square[1, :own], background[1, :own]) and not np.array_equal(square[1, own:], background[1, own:])
  assert not np.array_equal(square[0], square[1]) and not np.array_equal(square[1], square[2])


def test_an_unseen_pair_of_words_is_a_sum_of_seen_parts():
  a, b, c, d = (x[1] for x in WordHash().encode(["red square", "blue square", "red ring", "blue ring"]))
  np.testing.assert_allclose(d, b + c - a, atol=1e-6)
  assert np.abs(a - b).max() > 0.5 and np.abs(a - c).max() > 0.5


def test_word_features_have_unit_variance():
  features = WordHash().encode([" ".join(f"w{i}" for i in range(400))])[0]
  assert abs(features.std() - 1) < 0.02 and abs(features.mean()) < 0.02


def test_word_features_are_unchanged():
  got = WordHash().encode(["red"])[0][:, [0, 64, 96]]
  expected = [[-0.9177, -0.0217, -1.4569], [-0.5686, 1.0656, 1.4336]]
  np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=(
      "The vectors of words moved: data sets encoded before no longer fit. If you meant it, raise WordHash.version and paste "
      "the new values; if not, this is a bug (or numpy changed its normal generator)."))


# Teachers.


@each_teacher
def test_a_teacher_has_the_shapes_it_announces_and_the_same_under_jit(name):
  teacher, video, times = registry.TEACHERS[name](), clips(2, frames=5), (0.0, 2.5, 4.0)
  features = jax.jit(teacher.encode, static_argnums=1)(video, times)
  assert teacher.name == name and features.shape[:2] == (2, 3) and features.shape[4] == teacher.dim
  assert np.isfinite(features).all() and np.linalg.norm(features, axis=-1).min() > 0.1, "a cosine needs a direction"
  np.testing.assert_allclose(teacher.encode(video, times), features, atol=1e-4)


@each_teacher
def test_a_teacher_tells_clips_apart(name):
  teacher = registry.TEACHERS[name]()
  a, b = jax.jit(teacher.encode, static_argnums=1)(clips(2, frames=5), (2.0,))
  assert np.abs(a - b).max() > 0.1


def test_features_between_frames_are_linear_in_time():
  features = described(clips(2), (3.0, 3.25, 4.0, 8.0))
  np.testing.assert_allclose(features[:, 1], 0.75 * features[:, 0] + 0.25 * features[:, 2], atol=1e-5)
  assert np.abs(features[:, 0] - features[:, 2]).max() > 0.1


def test_times_outside_the_clip_are_refused():
  with pytest.raises(ValueError, match=r"must lie in \[0, 4\]"):
    Gradients().encode(clips(1, frames=5), (0.0, 4.5))


def test_a_flat_grey_image_has_a_direction():
  features = described(np.zeros((1, 1, 32, 32, 3), np.float32), (0.0,))
  assert np.isfinite(features).all() and np.linalg.norm(features, axis=-1).min() > 0.9


def test_the_flow_of_the_teacher_points_along_the_motion():
  rng = np.random.default_rng(0)
  video = np.stack([shapes.render(shapes.Clip("green", "ring", "large", motion, "white"), rng) for motion in shapes.MOTIONS])
  flow = described(video / 127.5 - 1, tuple(range(1, 8)))[..., 27:29].mean((1, 2, 3))
  for got, direction in zip(flow, shapes.MOTIONS.values()):
    strength = np.abs(got).max()
    np.testing.assert_allclose(got, strength * np.array(direction), atol=0.02)
    assert strength > 0.05 or direction == (0, 0)


def test_every_place_of_a_flat_clip_looks_different():
  features = described(np.zeros((1, 3, 32, 32, 3), np.float32), (0.0, 1.0, 2.0)).reshape(3 * 8 * 8, -1)
  cosine = features @ features.T / np.linalg.norm(features, axis=-1) / np.linalg.norm(features, axis=-1)[:, None]
  assert (cosine - np.eye(len(features))).max() < 0.995


def test_edges_of_another_orientation_fall_into_another_bin():
  stripes = np.broadcast_to(np.sin(np.arange(32) * 0.8), (32, 32))[..., None] * np.ones(3)
  upright, lying = (described(x[None, None], (0.0,))[..., :8].mean((0, 1, 2, 3)) for x in (stripes, stripes.swapaxes(0, 1)))
  assert upright.argmax() == 0 and lying.argmax() == 4


def test_any_frame_size_gives_the_same_cells():
  small_frames = described(clips(2, frames=3), (1.0,))
  large_frames = described(clips(2, frames=3, height=64, width=64), (1.0,))
  assert small_frames.shape == large_frames.shape
  cosine = (small_frames * large_frames).sum(-1) / np.linalg.norm(small_frames, axis=-1) / np.linalg.norm(large_frames, axis=-1)
  assert cosine.mean() > 0.95


# Pictures.


@each_image
def test_an_image_encoder_has_the_shapes_it_announces_and_the_same_under_jit(name):
  encoder, pictures = registry.IMAGES[name](), clips(3, frames=1)[:, 0]
  tokens = encoder.encode(pictures)
  assert encoder.name == name and tokens.shape == (3, encoder.tokens, encoder.dim) and tokens.dtype == np.float32
  np.testing.assert_allclose(jax.jit(encoder.encode)(pictures), tokens, atol=1e-5)
  assert np.abs(tokens[0] - tokens[1]).max() > 0.1


def test_a_token_of_a_thumbnail_is_a_cell_of_the_picture_and_its_place():
  picture = np.full((1, 32, 64, 3), -1, np.float32)
  picture[:, 8:16, 48:64] = (1, 0, -1)  # the second row's last cell
  cells = np.asarray(registry.IMAGES["thumbnail"]().encode(picture))[0].reshape(4, 4, -1)
  middles = cells[..., :48].reshape(4, 4, 4, 4, 3)[:, :, 1:3, 1:3]  # shrinking blurs what lies at the borders
  lit = np.abs(middles - (1, 0, -1)).max((2, 3, 4)) < 0.1
  assert np.argwhere(lit).tolist() == [[1, 3]]
  places = cells[..., 48:].reshape(16, -1)
  assert (places @ places.T - np.eye(16)).max() < 0.99
