"""Claims about the analysis of attention: it is that of the dense softmax, exact where attention is uniform, and never N x N."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import base
from launch import attention as launch, model as launch_model
from motif_jax import compiled, config, mesh as meshes, sample
from motif_jax.config import MeshConfig
from motif_jax.evaluate import attention, subject as subjects
from motif_jax.model import attention as model_attention, transformer
from motif_jax.pipeline import Pipeline
from tests import tiny
from tests.sensitive import sensitive

FRAMES, TOKENS, WORDS, PICTURE = 3, 12, 5, 4  # 3 x 2 x 2 video tokens, the second text padded, 4 tokens of an image


@functools.cache
def _model():
  """(a model with all kinds of blocks and an image embedder, parameters that feel everything, inputs)."""
  c = tiny.config_dict()
  c.model.image_dim = 7
  model = config.from_config_dict(c).model
  params = sensitive(jax.eval_shape(lambda: transformer.init(jax.random.key(0), model)), seed=1)
  normal = lambda *shape: np.random.default_rng(shape).standard_normal(shape, np.float32)
  mask = np.arange(WORDS) < np.array([[WORDS], [2]])
  inputs = dict(latents=normal(2, FRAMES, 4, 4, 7), t=np.array([0.3, 0.8], np.float32), text=normal(2, WORDS, 12), mask=mask,
                image=normal(2, PICTURE, 7))
  return model, params, inputs


def _measured(params):
  model, _, given = _model()
  return attention.measure(params, given["latents"], given["t"], given["text"], given["mask"], given["image"], model=model)


def dense(calls):
  """The same shares from all softmax rows at once."""
  heads = [call.outputs for call in calls if call.path.endswith("attention")]
  masks = calls[-1].inputs[1]
  q, k = heads[0][0], jnp.concatenate([k for _, k, _ in heads], axis=1)
  allowed = jnp.concatenate([jnp.ones(k.shape[:2], bool) if m is None else m for (_, k, _), m in zip(heads, masks)], axis=1)
  logits = jnp.einsum("blnd,bsnd->bnls", q, k) / np.sqrt(q.shape[-1])
  weights = jax.nn.softmax(jnp.where(allowed[:, None, None], logits, -jnp.inf), axis=-1)
  frame = np.arange(TOKENS) // (TOKENS // FRAMES)
  videos = 2 if len(heads) == 2 else 1  # with an image the blocks of the encoder have three segments
  of_video = weights[..., :videos * TOKENS]
  other = np.tile(frame, videos)[None] != frame[:, None]
  made = {"other_frames": jnp.sum(of_video * other, -1) / jnp.sum(of_video, -1)}
  if videos == 2:
    made["encoder"] = jnp.sum(weights[..., TOKENS:], -1)
  else:
    made |= {"image": jnp.sum(weights[..., TOKENS:-WORDS], -1), "text": jnp.sum(weights[..., -WORDS:], -1)}
  return {name: jnp.mean(value, axis=(1, 2)) for name, value in made.items()}


def test_shares_are_those_of_the_dense_softmax(monkeypatch):
  monkeypatch.setattr(attention, "CHUNK", 5)  # 12 queries: two chunks, and a third that is filled up
  model, params, given = _model()
  measured = _measured(params)
  expected = jax.jit(lambda params: transformer.apply(
      params, model, given["latents"], given["t"], given["text"], text_mask=given["mask"], image=given["image"],
      measure=lambda layer, before, after, calls: dense(calls))[1].measured)(params)
  told = {kind: {name for name in values if not name.startswith("cross")} for kind, values in measured.items()}
  assert told == {kind: set(values) for kind, values in expected.items()}
  assert {kind for kind, values in measured.items() if "cross_write" in values} == {"single"}
  for kind, values in expected.items():
    for name, value in values.items():
      np.testing.assert_allclose(measured[kind][name], value, rtol=1e-5, err_msg=f"{kind} {name}")
      assert np.std(value) > 1e-4  # no share is the same everywhere


def test_uniform_attention_is_on_other_frames_by_their_number():
  zeroed = lambda path, leaf: leaf * 0 if "query_norm" in jax.tree_util.keystr(path) else leaf
  measured = _measured(jax.tree_util.tree_map_with_path(zeroed, _model()[1]))
  words = np.array([[WORDS], [2]])
  for kind in ("dual", "single"):
    np.testing.assert_allclose(measured[kind]["other_frames"], (FRAMES - 1) / FRAMES, rtol=1e-6)
    np.testing.assert_allclose(measured[kind]["text"] * (TOKENS + PICTURE + words), words + 0 * measured[kind]["text"], rtol=1e-5)
  np.testing.assert_allclose(measured["decoder"]["other_frames"], (FRAMES - 1) / FRAMES, rtol=1e-6)
  np.testing.assert_allclose(measured["decoder"]["encoder"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("chunk, found", [(8, False), (64, True)])
def test_no_array_has_an_entry_for_each_pair_of_tokens(monkeypatch, chunk, found):
  monkeypatch.setattr(attention, "CHUNK", chunk)
  monkeypatch.setattr(model_attention, "CHUNK", 8)
  model, params, given = _model()
  twice = np.zeros((2, 4, 8, 8, 7), np.float32)  # 4 x 4 x 4 tokens, more than any other size of the model
  lowered = jax.jit(functools.partial(attention.measure.__wrapped__, model=model)).lower(
      params, twice, given["t"], given["text"], given["mask"])
  pairs = [b for b in compiled.largest_buffers(lowered.compile().as_text(), 10_000)
           if sum(d >= 64 for d in compiled.dims_of(b.shape)) > 1]
  assert bool(pairs) == found


def test_prompts_that_only_fill_the_batch_do_not_count():
  model = _model()[0]
  names = {"dual": "text", "single": "text", "decoder": "encoder"}
  parts = [{kind: {name: np.array([[a, 10 * a], [b, 10 * b]])} for kind, name in names.items()}
           for a, b in ((1.0, 2.0), (6.0, 100.0))]
  rows = attention._by_block(model, parts, 3)
  assert [(row["block"], row["kind"], row[names[row["kind"]]]) for row in rows] == [
      (0, "dual", 3.0), (1, "dual", 30.0), (2, "single", 3.0), (3, "single", 30.0), (4, "decoder", 3.0), (5, "decoder", 30.0)]


def test_the_model_s_own_videos_are_looked_at_with_new_noise_of_each_time_and_their_prompts(monkeypatch):
  cfg = dataclasses.replace(tiny.make_config(), model=dataclasses.replace(tiny.make_config().model, patch=(2, 1, 3)))
  data = np.random.default_rng(0).standard_normal((3, 4, 2, 6, 3), np.float32)
  texts = {prompt: np.full((count, 12), count, np.float32) for prompt, count in (("a", 2), ("b", 4), ("c", 1))}
  seen, depths = [], dataclasses.asdict(cfg.model.depths)

  def measure(params, inputs, t, text, mask, *, model):
    seen.append((inputs, t, text, mask))
    return {kind: {"text": np.full((2, depth), text[:, :1, 0])} for kind, depth in depths.items()}

  monkeypatch.setattr(attention, "measure", measure)
  monkeypatch.setattr(attention, "latents", lambda subject: data)
  codec = types.SimpleNamespace(grid=lambda *bucket: data.shape[1:4], strides=(4, 8, 8))
  said = attention.look(subjects.Subject({}, cfg, codec, texts, ("a", "b", "c"), jax.random.key(5), batch=2), [0.25, 0.75])
  noises = []
  for number, (inputs, t, text, mask) in enumerate(seen):
    rows, at = ([0, 1], [2, 2])[number % 2], (0.25, 0.75)[number // 2]
    assert t.tolist() == [at, at] and mask.sum(1).tolist() == text[:, 0, 0].tolist() == [(2, 4, 1)[row] for row in rows]
    noises.append((inputs[..., :3] - (1 - at) * data[rows]) / at)
    assert not np.any(inputs[..., 3:])
  np.testing.assert_allclose(noises[:2], noises[2:], atol=1e-5)
  first = sample.initial_noise(jax.random.key(5), np.arange(3), data.shape[1:])  # what a sampler with this key begins with
  assert np.std(noises[0]) == pytest.approx(1, abs=0.2) and abs(np.mean(noises[0] * first[:2])) < 0.2
  assert (said["tokens"], said["frames"], said["text_tokens"]) == (8, 2, pytest.approx(7 / 3))
  assert said["uniform"] == dict(other_frames=0.5, encoder=0.5, text=pytest.approx((2 / 10 + 4 / 12 + 1 / 9) / 3))
  assert [(row["t"], row["text"]) for row in said["rows"]] == [(t, pytest.approx(7 / 3)) for t in (0.25, 0.75) for _ in range(6)]


def test_the_latent_frames_of_one_patch_are_one_frame():
  model = dataclasses.replace(_model()[0], patch=(2, 2, 2))
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), model))
  given = [np.zeros(shape, np.float32) for shape in ((2, 6, 2, 2, 7), (2,), (2, WORDS, 12))]  # 3 tokens: none for 6 frames
  measure = functools.partial(attention.measure.__wrapped__, model=model)
  measured = jax.eval_shape(measure, params, *given, np.ones((2, WORDS), bool))
  assert measured["decoder"]["other_frames"].shape == (2, 2)


def test_a_summary_is_of_the_blocks_that_a_figure_is_of():
  rows = [dict(kind="dual", other_frames=0.1, text=0.2), dict(kind="single", other_frames=0.3, text=0.6, cross_write=0.5),
          dict(kind="single", other_frames=0.8, text=0.1, cross_write=0.2), dict(kind="decoder", other_frames=0.9, encoder=0.4)]
  assert attention.summary(rows) == dict(
      other_frames=dict(encoder=pytest.approx(0.4), decoder=pytest.approx(0.9)), text=pytest.approx(0.3),
      cross_write=dict(mean=pytest.approx(0.35), weakest=0.2))
  assert attention.summary(rows[:1])["cross_write"] == dict(mean=None, weakest=None)


@functools.cache
def _small():
  """(config, parameters) of a model of one block of each kind, whose weights all matter."""
  c = base.get_config()
  c.model.update(dict(latent_channels=24, width=16, heads=2, depths=dict(dual=1, single=1, decoder=1), text_dim=128,
                      rope_axes=(2, 2, 4), image_dim=0, dtype="float32", remat="none"))
  c.data.text_tokens, c.route.keep, c.alignment.weight = 9, 1.0, 0.0
  c.sample.update(dict(steps=1, bucket=dict(frames=5, height=16, width=24)))
  cfg = config.from_config_dict(c)
  return cfg, sensitive(jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg.model)), seed=2)


@pytest.fixture
def small_model(monkeypatch):
  """What --checkpoint names."""
  mesh = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  cfg, params = _small()
  monkeypatch.setattr(launch_model, "find", lambda args: (Pipeline(cfg, lambda: params, mesh), dict(checkpoint=args.checkpoint)))


def test_the_command_leaves_numbers_and_pictures_of_each_size(small_model, tmp_path, capsys):
  (tmp_path / "prompts.txt").write_text("a red square\n\na blue disc moves up\na star\n")
  launch.main(["--checkpoint=run", f"--prompts={tmp_path / 'prompts.txt'}", "--batch=2", "--times=0.2,0.9",
               "--buckets=9x16x24,5x16x24", f"--output={tmp_path}"])
  said = json.loads((tmp_path / "attention.json").read_text())
  sizes = {name: (size["tokens"], size["frames"]) for name, size in said["buckets"].items()}
  assert sizes == {"5x16x24": (12, 2), "9x16x24": (18, 3)}
  assert [(row["t"], row["kind"]) for row in said["buckets"]["9x16x24"]["rows"]] == [
      (t, kind) for t in (0.2, 0.9) for kind in ("dual", "single", "decoder")]
  assert said["buckets"]["5x16x24"]["uniform"]["other_frames"] == 0.5
  assert len(capsys.readouterr().out.splitlines()) >= 1 + 4  # a row for each size and time
  assert Image.open(tmp_path / "attention.png").size[0] > 800


def test_a_batch_that_is_not_full_is_filled_up_on_a_mesh():
  cfg, params = _small()
  mesh = meshes.make_mesh(MeshConfig(2, 1, 1), devices=jax.devices()[:2])
  full = launch_model.subject_of(Pipeline(cfg, lambda: params, mesh), ["a ring", "a cross", "a star", "a blue ring"], seed=3, batch=2)
  few = full._replace(prompts=full.prompts[:3], batch=1)  # which two devices round up
  with jax.set_mesh(mesh):
    latents, ragged = subjects.latents(full), subjects.latents(few)
    frames, shown = subjects.frames(full, latents), subjects.frames(few, ragged)
  assert (len(ragged), len(shown)) == (3, 3)
  np.testing.assert_array_equal(ragged, latents[:3])
  np.testing.assert_array_equal(shown, frames[:3])


@pytest.mark.parametrize("flags, said", [
    (["--times=0.5,noon"], "--times=0.5,noon: expected numbers"),
    (["--times=1.5"], "expected times between 0 .data. and 1"),
    (["--batch=0"], "at least 1 video at once"),
    (["--prompts=nowhere.txt"], "expected a text file with a prompt per line"),
    (["--buckets=6x16x24"], "frames 6 .*nearest: 5, 9"),
])
def test_bad_flags_get_one_clear_error(small_model, tmp_path, flags, said):
  with pytest.raises(SystemExit, match=f"(?s)error: .*{said}"):
    launch.main(["--checkpoint=run", f"--output={tmp_path / 'out'}", *flags])
  assert not (tmp_path / "out").exists()
