"""The frozen encoders with weights, without torch: sizes, folders in every layout, meshes, texts, times, and what they refuse."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from motif_jax.data import dataset
from motif_jax.encoders import dinov2, frames, siglip, t5gemma2, vit, vjepa2
from motif_jax.weights import digest, encoder_folder, frozen as loaders
from tests import frozen

RELEASED = {
    "T5Gemma2": (t5gemma2, t5gemma2.RELEASED, 3_880_101_888), "SigLIP": (vit, siglip.RELEASED, 416_866_032),
    "V-JEPA 2 L": (vit, vjepa2.RELEASED["L"], 303_885_312), "V-JEPA 2 H": (vit, vjepa2.RELEASED["H"], 631_648_000),
    "V-JEPA 2 g": (vit, vjepa2.RELEASED["g"], 1_012_173_952), "DINOv2 S": (vit, dinov2.RELEASED["S"], 22_056_192),
    "DINOv2 B": (vit, dinov2.RELEASED["B"], 86_579_712), "DINOv2 L": (vit, dinov2.RELEASED["L"], 304_367_616),
}
CLIP = np.random.default_rng(0).uniform(-1, 1, (2, 5, 18, 26, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with a folder of each model."""
  path = tmp_path_factory.mktemp("frozen")
  for name in frozen.MODELS:
    frozen.write(path / name, name)
  return path


@pytest.fixture(scope="module")
def text(home):
  return loaders.text(home / "t5gemma2", mesh=None, load=True)


def teacher(home, name):
  return loaders.ENCODERS["teacher"][name](home / name, mesh=None, load=True)


# Compiled: op by op each of these takes seconds.
described = jax.jit(lambda teacher, video, times: teacher.encode(video, times), static_argnums=2)


def opened(path, name):
  return encoder_folder.find(path, **loaders.KINDS[name])


@pytest.mark.parametrize("name", RELEASED)
def test_published_sizes_have_their_number_of_parameters(name):
  module, cfg, count = RELEASED[name]
  abstract = jax.eval_shape(lambda key: module.init(key, cfg), jax.random.key(0))
  assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(abstract)) == count


@pytest.mark.parametrize("name, prefix", [
    ("t5gemma2", ""), ("t5gemma2", "encoder."), ("t5gemma2", "text_model."), ("t5gemma2", "model.encoder.text_model."),
    ("siglip", ""), ("siglip", "vision_model."), ("siglip", "vision_tower."), ("siglip", "encoder.vision_tower.vision_model."),
    ("vjepa2", ""), ("vjepa2", "vjepa2."), ("dinov2", ""), ("dinov2", "dinov2."),
])
def test_weights_are_found_under_every_prefix_and_digested_alike(home, tmp_path, name, prefix):
  others = {"t5gemma2": {"vision_tower.encoder.layers.0.mlp.fc1.bias": np.ones(2)}, "siglip": {},
            "dinov2": {"embeddings.mask_token": np.ones(2)}, "vjepa2": {"predictor.layernorm.bias": np.ones(2)}}[name]
  if "vision_tower" in prefix:
    others = {"encoder.layers.0.mlp.up_proj.weight": np.ones(2)}  # of the text encoder, and not of the tower
  found = opened(frozen.write(tmp_path, name, prefix=prefix, others=others), name)
  jax.tree.map(np.testing.assert_array_equal, encoder_folder.load(found), frozen.params(name))
  assert found.digests == opened(home / name, name).digests


def test_files_of_before_transformers_5_hold_the_same_dinov2(home, tmp_path):
  frozen.write(tmp_path, "dinov2")
  renamed = {}
  for key, value in load_file(tmp_path / "model.safetensors").items():
    for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value"),
                     ("o_proj", "output.dense")):
      key = key.replace(new, old)
    renamed[key] = value
  save_file(renamed, tmp_path / "model.safetensors")
  assert opened(tmp_path, "dinov2").digests == opened(home / "dinov2", "dinov2").digests


def test_a_folder_must_be_complete_on_both_sides(tmp_path):
  frozen.write(tmp_path, "vjepa2", others={"encoder.layer.3.norm1.bias": np.ones(40, np.float32)})
  tensors = load_file(tmp_path / "model.safetensors")
  del tensors["encoder.layer.1.mlp.fc2.bias"]
  tensors["encoder.layernorm.bias"] = np.ones(41, np.float32)
  save_file(tensors, tmp_path / "model.safetensors")
  with pytest.raises(ValueError) as e:
    encoder_folder.load(opened(tmp_path, "vjepa2"))
  for said in ("missing: encoder.layer.1.mlp.fc2.bias", "not used: encoder.layer.3.norm1.bias", r"layernorm.bias is (41,)"):
    assert said in str(e.value)


@pytest.mark.parametrize("change, said", [
    (dict(model_type="bert"), "model_type is 'bert', expected 't5gemma2_text'"),
    (dict(attn_logit_softcapping=50.0), "attn_logit_softcapping is 50.0, expected None"),
    (dict(rope_parameters=dict(full_attention=dict(rope_type="yarn"))), "rope_type of full layers is 'yarn', expected 'default'"),
])
def test_a_text_encoder_that_is_not_written_here_is_refused(change, said):
  content = frozen.TEXT | change
  with pytest.raises(ValueError, match=said):
    frozen.MODELS["t5gemma2"][1](dict(text_config=content), dtype="float32")


def test_old_and_new_config_files_say_the_same():
  old = {k: v for k, v in frozen.TEXT.items() if k != "rope_parameters"} | dict(
      rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=dict(rope_type="linear", factor=8.0), sliding_window_pattern=6)
  config_of = frozen.MODELS["t5gemma2"][1]
  new = config_of(frozen.TEXT_ENCODER, dtype="float32")
  assert config_of(dict(encoder=frozen.TEXT_ENCODER | dict(text_config=old)), dtype="float32") == new
  assert new.full == (False,) * 5 + (True, False) and (new.theta, new.full_theta, new.full_stretch) == (1e4, 1e6, 8.0)


def test_a_folder_without_config_or_tokenizer_is_refused(home, tmp_path):
  with pytest.raises(ValueError, match="has no config.json"):
    opened(tmp_path, "vjepa2")
  shutil.copytree(home / "t5gemma2", tmp_path / "text")
  (tmp_path / "text" / "tokenizer.json").rename(tmp_path / "t.json")
  with pytest.raises(ValueError, match="tokenizer.json does not exist"):
    loaders.text(tmp_path / "text", mesh=None, load=False)
  (tmp_path / "tokenizer").mkdir()
  (tmp_path / "t.json").rename(tmp_path / "tokenizer" / "tokenizer.json")  # where pipelines keep it
  versions = [loaders.text(path, mesh=None, load=False).version for path in (tmp_path / "text", home / "t5gemma2")]
  assert versions[0] == versions[1]


def test_other_weights_have_another_version(home, tmp_path):
  first, second = opened(home / "vjepa2", "vjepa2"), opened(frozen.write(tmp_path, "vjepa2", seed=1), "vjepa2")
  assert not set(first.digests) & set(second.digests)


def test_one_changed_number_anywhere_is_another_version_beside_what_older_data_sets_recorded(home, tmp_path):
  path = shutil.copytree(home / "vjepa2", tmp_path / "vjepa2")
  before = loaders.ENCODERS["teacher"]["vjepa2"](path, mesh=None, load=False).version
  tensors = load_file(path / "model.safetensors")
  name, tensor = next((name, tensor) for name, tensor in tensors.items() if tensor.ndim == 2)
  tensor[0, 0] += 1  # in no middle row
  save_file(tensors, path / "model.safetensors")
  after = loaders.ENCODERS["teacher"]["vjepa2"](path, mesh=None, load=False).version
  old = before.rpartition("-")[0]  # before every byte counted
  assert after != before and after.rpartition("-")[0] == old
  assert dataset.same_version(old, before) and dataset.same_version(old, after) and not dataset.same_version(before, after)


def test_a_digest_is_read_from_the_bytes_once(home, monkeypatch):
  known = opened(home / "vjepa2", "vjepa2").digests
  monkeypatch.setattr(digest, "_bytes_of", None)
  assert opened(home / "vjepa2", "vjepa2").digests == known
  monkeypatch.undo()
  monkeypatch.setenv("MOTIF_JAX_CACHE", "/proc/nowhere")  # where nothing can be written it is read again
  assert opened(home / "vjepa2", "vjepa2").digests == known


def test_a_caption_alone_equals_the_caption_among_others(text):
  alone, among = text.encode(["abc bad"])[0], text.encode(["", "abc bad", "abcabc " * 9])
  assert text.dim == 24 and among[0].shape == (1, 24) and [len(x) for x in among] == [1, 6, 28]
  assert alone.dtype == np.float32
  np.testing.assert_allclose(alone, among[1], atol=1e-4)


def test_untrimmed_features_have_one_length(text):
  assert [x.shape for x in text.encode(["", "abc"], trim=False)] == [(512, 24)] * 2


def test_a_long_prompt_is_cut_and_what_was_cut_is_said(text):
  with pytest.warns(UserWarning, match="has 514 tokens; what goes beyond 512 is not seen: 'de'"):
    cut, = text.encode(["a" * 511 + "de"])
  assert cut.shape == (512, 24) and text.beyond("a" * 511 + "de", 600) == "de"
  assert text.beyond("abc bad", 5) == "d" and text.beyond("abc bad", 6) == ""


def test_bfloat16_features_are_those_of_float32_to_its_precision(text, tmp_path):
  frozen.write(tmp_path, "t5gemma2", dtype=jnp.bfloat16)
  half = loaders.text(tmp_path, mesh=None, load=True)
  assert half.cfg.dtype == "bfloat16" and half.version != text.version
  got, want = half.encode(["abc bad"])[0], text.encode(["abc bad"])[0]
  assert 1e-3 < np.linalg.norm(got - want) / np.linalg.norm(want) < 0.1


def test_the_released_window_reaches_511_tokens_back_and_512_ahead():
  cfg = dataclasses.replace(t5gemma2.RELEASED, head_dim=2)
  windowed, _ = t5gemma2.facts_of(cfg, np.ones((1, 1100), bool))
  seen = np.flatnonzero(windowed.mask[0, 550])
  assert (seen.min() - 550, seen.max() - 550) == (-511, 512)


def test_the_scale_of_embeddings_is_rounded_to_bfloat16():
  params = dict(table=np.ones((3, 2560), jnp.bfloat16), image_end=np.full(2560, 7, jnp.bfloat16))
  got = t5gemma2.embed(params, dataclasses.replace(t5gemma2.RELEASED, image_end=2), np.array([[1, 2]]))
  assert got.dtype == jnp.bfloat16 and got[0, 0, 0] == 50.5 and got[0, 1, 0] == 7


@pytest.mark.parametrize("name", ["vjepa2", "dinov2"])
def test_a_teacher_has_the_shapes_it_announces_and_its_weights_are_arguments_under_jit(home, name):
  made = teacher(home, name)
  got, compiled = described(made, CLIP, (0.0, 2.5, 4.0)), described._cache_size()
  assert got.shape == (2, 3, made.cfg.grid, made.cfg.grid, made.dim) and got.dtype == jnp.float32
  other = described(made.replace(params=jax.tree.map(lambda w: 0.9 * w, made.params)), CLIP, (0.0, 2.5, 4.0))
  assert described._cache_size() == compiled and np.abs(other - got).max() > 0.01
  with pytest.raises(ValueError, match=r"must lie in \[0, 4\]"):
    made.encode(CLIP, (4.5,))


def test_video_features_at_a_time_lie_between_the_centres_of_tubelets(home):
  made = teacher(home, "vjepa2")
  got = described(made, CLIP, (0.5, 2.5, 0.0, 1.0, 4.0))
  np.testing.assert_allclose(got[:, 3], 0.75 * got[:, 0] + 0.25 * got[:, 1], atol=1e-5)
  np.testing.assert_allclose(got[:, 2], got[:, 0], atol=1e-5, err_msg="before the first centre the first features hold")
  assert np.abs(got[:, 4] - got[:, 1]).max() > 0.1


def test_an_odd_last_frame_counts_twice(home):
  made = teacher(home, "vjepa2")
  even = np.concatenate([CLIP, CLIP[:, -1:]], axis=1)
  np.testing.assert_array_equal(described(made, CLIP, (4.0,)), described(made, even, (4.0,)))
  assert jax.eval_shape(lambda video: made.encode(video, (0.0,)), CLIP[:, :1]).shape == (2, 1, 3, 3, 40)


def test_picture_features_of_a_clip_are_those_of_its_frames(home):
  made = teacher(home, "dinov2")
  third, fourth = (described(made, CLIP[:, i:i + 1], (0.0,))[:, 0] for i in (2, 3))
  got = described(made, CLIP, (2.0, 2.25))
  np.testing.assert_allclose(got[:, 0], third, atol=1e-4)
  np.testing.assert_allclose(got[:, 1], 0.75 * third + 0.25 * fourth, atol=1e-4)


def test_frames_are_stretched_whole_and_normalised():
  video = np.broadcast_to(np.linspace(-1, 1, 40, dtype=np.float32)[:, None], (1, 1, 30, 40, 3))
  got = frames.normalised(frames.stretched(video, 8), frames.IMAGENET)
  assert got.shape == (1, 1, 8, 8, 3)
  mean, deviation = np.array(frames.IMAGENET)
  whole = got * deviation + mean
  np.testing.assert_allclose(whole[0, 0, 3, :, 1].mean(), 0.5, atol=1e-3)
  assert whole.min() < 0.08 and whole.max() > 0.92, "no side was cut off"


def test_image_tokens_have_the_shape_they_announce(home):
  made = loaders.ENCODERS["image"]["siglip"](home / "siglip", mesh=None, load=True)
  got = jax.jit(lambda image, pictures: image.encode(pictures))(made, CLIP[:, 0])
  assert got.shape == (2, made.tokens, made.dim) == (2, 9, 24)
