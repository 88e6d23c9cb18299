"""Sampling with a tiny model that feels all of its inputs: what a sample may depend on, and what it may not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from motif_jax import compiled, config, mesh as meshes, sample, stepwise
from motif_jax.config import CacheConfig, MeshConfig, TokenShiftConfig
from motif_jax.encoders.registry import CODECS, TEXTS
from motif_jax.flow import times
from motif_jax.model import transformer
from tests.sensitive import sensitive

GRID, T = (3, 2, 4), 6
PROMPTS = ("a red square moves left", "a blue disc", "a green star on a white background")


def _config():
  c = base.get_config()
  c.model.update(dict(latent_channels=5, width=16, heads=2, depths=dict(dual=0, single=1, decoder=0), patch=(1, 1, 2),
                      rope_axes=(2, 2, 4), text_dim=TEXTS["word_hash"]().dim, image_dim=7, dtype="float32", remat="none"))
  c.route.keep = 1.0
  return config.from_config_dict(c)


CFG = _config()


@pytest.fixture(scope="module")
def params():
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, CFG.model), jax.random.key(0)), seed=0)


def _generate(params, prompts=PROMPTS, **changed):
  text, mask = sample.encode_prompts(TEXTS["word_hash"](), prompts, T)
  empty_text, empty_mask = sample.encode_prompts(TEXTS["word_hash"](), [""], T)
  kwargs = dict(key=jax.random.key(3), grid=GRID) | {k: changed.pop(k) for k in list(changed) if k not in HOW}
  return np.asarray(sample.generate(params, with_sampling(**changed), text, mask, empty_text, empty_mask, **kwargs))


HOW = ("steps", "shift", "sampler", "guidance", "rule", "eta", "interval", "together", "cache")
EXACT = CacheConfig(skip=(), order=1)


def with_sampling(*, steps=2, shift=3.0, sampler="euler", guidance=2.0, rule="classifier_free", cache=EXACT, **changes):
  guide = dataclasses.replace(CFG.sample.guidance, scale=guidance, rule=rule, **changes)
  how = dataclasses.replace(CFG.sample, steps=steps, shift=shift, image_shift=shift, sampler=sampler, guidance=guide, cache=cache)
  return dataclasses.replace(CFG, sample=how)


def _differ(a, b):
  return np.abs(a - b).max() > 1e-3


def test_prompts_are_padded_at_the_tail_and_cut_to_the_static_length():
  encoder = TEXTS["word_hash"]()
  text, mask = sample.encode_prompts(encoder, ["", *PROMPTS], T)
  assert text.shape == (4, T, encoder.dim) and text.dtype == np.float32
  assert mask.sum(axis=1).tolist() == [1, T, 4, T]  # bos and words
  np.testing.assert_array_equal(text[2, :4], encoder.encode([PROMPTS[1]])[0])
  np.testing.assert_array_equal(text[3], encoder.encode([PROMPTS[2]])[0][:T])
  assert not text[~mask].any()


def test_latents_have_the_grid_and_the_channels_of_the_codec(params):
  latents = _generate(params)
  assert latents.shape == (3, *GRID, CFG.model.latent_channels) and latents.dtype == np.float32
  assert np.isfinite(latents).all()


def test_the_same_key_gives_the_same_sample_and_another_key_another(params):
  first = _generate(params)
  np.testing.assert_array_equal(first, _generate(params))
  assert _differ(first, _generate(params, key=jax.random.key(4)))


def test_a_row_alone_equals_the_row_in_a_batch(params):
  together, alone = _generate(params), _generate(params, PROMPTS[2:], indices=[2])
  np.testing.assert_allclose(alone[0], together[2], atol=1e-4)
  assert _differ(alone[0], _generate(params, PROMPTS[2:])[0])  # the same prompt, as number 0


def test_the_prompt_is_felt_and_its_padding_is_not(params, monkeypatch):
  prompts = ["a blue disc", "a red disc", "a blue disc"]
  clean = _generate(params, prompts, indices=[0, 0, 0])
  assert _differ(clean[0], clean[1])
  np.testing.assert_allclose(clean[0], clean[2], atol=1e-5)
  encode = sample.encode_prompts

  def dirty(*args):
    text, mask = encode(*args)
    return np.where(mask[..., None], text, 9.0).astype(np.float32), mask

  monkeypatch.setattr(sample, "encode_prompts", dirty)
  np.testing.assert_allclose(_generate(params, prompts, indices=[0, 0, 0]), clean, atol=1e-4)


def test_padding_is_as_long_as_the_longest_text_needs_and_changes_nothing(params, monkeypatch):
  monkeypatch.setattr(sample, "TEXT_MULTIPLE", 2)
  texts, empty = [np.full((n, TEXTS["word_hash"]().dim), 0.1 * n, np.float32) for n in (3, 2)], np.ones((1, 128), np.float32)
  assert [sample.text_length(CFG, some) for some in (texts, texts[1:], [empty] * 3)] == [4, 2, 2]
  assert sample.text_length(CFG, [np.ones((999, 128))]) == CFG.data.text_tokens
  of = lambda cfg, **given: np.concatenate([np.asarray(made) for made, _ in sample.latents_of(
      params, cfg, texts, empty, key=jax.random.key(3), grid=GRID, batch=2, **given)])
  long, trimmed = of(with_sampling(), length=T), of(with_sampling())
  np.testing.assert_allclose(trimmed, long, atol=1e-5)
  np.testing.assert_allclose(of(with_sampling(together=False)), long, atol=1e-5)  # the empty text has two tokens there
  assert _differ(of(with_sampling(), length=2), long)  # which cuts a text


@pytest.mark.parametrize("parts, batch, made", [(1, 2, [([7, 5], 2), ([9, 9], 1)]), (2, 8, [([7, 5, 9, 9], 3)])])
def test_each_text_keeps_its_number_in_batches_that_the_devices_share_evenly(parts, batch, made):
  def make(params, cfg, features, mask, *empty, indices, first_frame, **how):
    assert len(features) == len(first_frame) == len(indices)
    return indices

  texts = [np.ones((n, 128), np.float32) for n in (1, 2, 3)]
  mesh = meshes.make_mesh(MeshConfig(parts, 1, 1), devices=jax.devices()[:parts])
  with jax.set_mesh(mesh):
    assert list(sample.latents_of({}, CFG, texts, texts[0], key=None, grid=GRID, batch=batch, indices=[7, 5, 9],
                                  first_frame=jnp.zeros((1, 1, *GRID[1:], 5)), make=make)) == made


@pytest.mark.parametrize("together", [True, False])
def test_text_and_image_are_embedded_once_and_not_in_every_step(params, together):
  arguments = [np.zeros((2, T, 128), np.float32), np.ones((2, T), bool), np.zeros((1, T, 128), np.float32), np.ones((1, T), bool)]
  make = jax.jit(lambda params, *texts: sample.generate(params, with_sampling(steps=5, together=together), *texts, grid=GRID,
                                                        key=jax.random.key(0), image=np.ones((2, 3, 7), np.float32)))
  text = make.lower(params, *arguments).compile().as_text()
  module, counts, found = compiled.parse(text), compiled.trip_counts(text), {"text_embed": [], "image_embed": [], "time_embed": []}
  for computation, instructions in module.items():
    types = {i.name: i.type for i in instructions}
    for i in instructions:
      name = next((name for name in found if f"{name}/" in compiled.source_of(i.attributes)), None)
      if name and compiled.product_flops(i, types):
        found[name].append(counts[computation])
  assert {name: set(times) for name, times in found.items()} == {"text_embed": {1}, "image_embed": {1}, "time_embed": {5}}


def test_guidance_scale_one_is_no_guidance(params):
  np.testing.assert_allclose(_generate(params, guidance=1.0), _generate(params, guidance=1.0 + 1e-6), atol=1e-3)
  assert _differ(_generate(params, guidance=1.0), _generate(params, guidance=2.0))


def test_both_passes_of_guidance_come_out_the_same_together_and_in_turn(params):
  np.testing.assert_allclose(_generate(params, together=False), _generate(params), rtol=1e-4, atol=1e-5)


def test_guidance_acts_in_its_interval_and_nowhere_else(params):
  alone, always = _generate(params, guidance=1.0), _generate(params)
  np.testing.assert_allclose(_generate(params, interval=(0.1, 0.2)), alone, atol=1e-5)  # the times are 1 and 0.75
  first = _generate(params, interval=(0.9, 1.0))
  assert _differ(first, alone) and _differ(first, always)


def test_projected_guidance_of_scale_zero_is_none(params):
  np.testing.assert_allclose(_generate(params, rule="projected", guidance=0.0), _generate(params, guidance=1.0), atol=1e-6)
  assert _differ(_generate(params, rule="projected", guidance=2.0), _generate(params, rule="projected", guidance=2.0, eta=1.0))


def test_guidance_of_the_empty_prompt_changes_nothing(params):
  np.testing.assert_allclose(_generate(params, [""] * 3, guidance=1.0), _generate(params, [""] * 3, guidance=5.0), atol=1e-4)


@pytest.mark.parametrize("changed", [dict(sampler="unipc", rule="projected", steps=3), dict(cache=CacheConfig((2,), 1), steps=4)])
def test_sampling_step_by_step_is_the_same_walk(params, changed):
  texts = [*sample.encode_prompts(TEXTS["word_hash"](), PROMPTS, T), *sample.encode_prompts(TEXTS["word_hash"](), [""], T)]
  seen = []
  watched = stepwise.watched(lambda step, indices: seen.append((step, indices)))
  end = watched(params, with_sampling(**changed), *texts, key=jax.random.key(3), grid=GRID, indices=[0, 1, 2])
  np.testing.assert_allclose(end, _generate(params, **changed), rtol=1e-4, atol=1e-5)
  assert [(step.number, step.of, indices) for step, indices in seen] == [
      (i + 1, changed["steps"], [0, 1, 2]) for i in range(changed["steps"])]
  last, walked = seen[-1][0], sample.times_of(with_sampling(**changed), GRID, picture=False)
  assert [step.t for step, _ in seen] == walked[:-1].tolist()
  np.testing.assert_allclose(last.data, end, rtol=1e-4, atol=1e-5)  # the last step goes where it points


def test_a_preview_is_the_beginning_of_the_video_and_small(monkeypatch):
  codec, key = CODECS["block_dct"](), jax.random.key(0)
  latents = jax.random.normal(key, (2, 3, 4, 6, codec.channels))  # 9 frames of 16 x 24
  whole = np.asarray(sample.decode(codec, latents))
  np.testing.assert_array_equal(stepwise.preview(codec, latents), whole)
  monkeypatch.setattr(stepwise, "PIXELS", 2 * 4 * 16 * 24)
  monkeypatch.setattr(stepwise, "SIDE", 12)
  np.testing.assert_array_equal(stepwise.preview(codec, latents), whole[:, :5, ::2, ::2])


def test_image_tokens_are_felt(params):
  image = jax.random.normal(jax.random.key(0), (3, 2, CFG.model.image_dim))
  assert _differ(_generate(params), _generate(params, image=image))


@pytest.fixture
def seen(monkeypatch):
  """Puts a network in place of ours whose velocity is its first-frame channels; lists the batches it was traced with."""
  batches = []

  def apply(params, cfg, latents, *args, **kwargs):
    batches.append(len(latents))
    return latents[..., cfg.latent_channels:-1] * latents[..., -1:], None

  monkeypatch.setattr(transformer, "apply", apply)
  sample._integrate.clear_cache()
  yield batches
  sample._integrate.clear_cache()


@pytest.fixture
def evaluations(monkeypatch):
  """Counts how often the network really runs, in a list; its velocity is x."""
  seen = []

  def apply(params, cfg, latents, *args, **kwargs):
    jax.debug.callback(lambda: seen.append(0))
    return latents[..., :cfg.latent_channels], None

  monkeypatch.setattr(transformer, "apply", apply)
  sample._integrate.clear_cache()
  yield seen
  sample._integrate.clear_cache()


@pytest.mark.parametrize("sampler, steps, skip, runs", [("euler", 6, (2, 3, 5), 3), ("heun", 5, (3,), 8), ("unipc", 5, (1, 4), 3)])
def test_the_network_does_not_run_on_foretold_steps(evaluations, sampler, steps, skip, runs):
  _generate({}, sampler=sampler, steps=steps, cache=CacheConfig(skip, 1))
  jax.effects_barrier()
  assert len(evaluations) == runs


def test_a_picture_and_the_number_of_tokens_decide_the_times():
  grid = lambda shift: times.grid(CFG.sample.steps, shift)
  np.testing.assert_array_equal(sample.times_of(CFG, GRID, picture=False), grid(15.0))
  np.testing.assert_array_equal(sample.times_of(CFG, GRID, picture=True), grid(8.0))
  by_tokens = TokenShiftConfig("linear", (12, 24), (2.0, 4.0))  # 3 x 2 x 4 latents in patches of 1 x 1 x 2: 12 tokens
  how = dataclasses.replace(CFG.sample, token_shift=by_tokens)
  np.testing.assert_array_equal(sample.times_of(dataclasses.replace(CFG, sample=how), GRID, picture=True), grid(2.0))
  how = dataclasses.replace(how, sigmas=(0.9, 0.3))
  np.testing.assert_array_equal(sample.times_of(dataclasses.replace(CFG, sample=how), GRID, picture=False), np.float32([0.9, 0.3, 0]))


def test_guidance_scale_one_runs_the_conditional_pass_alone(seen):
  _generate({}, guidance=1.0)
  assert set(seen) == {3}
  _generate({}, guidance=2.0)
  assert set(seen) == {3, 6}


def test_the_first_frame_is_blurred_by_time_and_stands_at_frame_zero_alone(seen):
  levels = jax.random.normal(jax.random.key(0), (3, 4, *GRID[1:], CFG.model.latent_channels))
  free = _generate({}, steps=4, shift=1.0)
  given = _generate({}, steps=4, shift=1.0, first_frame=levels)
  # At the times 1, 3/4, 1/2, 1/4 the levels are 3, 3, 2, 1; each counts for a quarter of the way.
  np.testing.assert_allclose(given[:, 0], free[:, 0] - (2 * levels[:, 3] + levels[:, 2] + levels[:, 1]) / 4, atol=1e-5)
  np.testing.assert_array_equal(given[:, 1:], free[:, 1:])


def test_a_clip_of_one_frame_is_never_conditioned(seen):
  first_frame = jnp.ones((3, 1, *GRID[1:], CFG.model.latent_channels))
  one_frame = dict(grid=(1, *GRID[1:]))
  np.testing.assert_array_equal(_generate({}, **one_frame), _generate({}, **one_frame, first_frame=first_frame))
  assert _differ(_generate({}), _generate({}, first_frame=first_frame))


def test_an_unknown_sampler_names_the_known_ones(params):
  with pytest.raises(ValueError, match="expected one of euler"):
    _generate(params, sampler="rk4")


def test_frames_are_decoded_rounded_and_clamped():
  @jax.tree_util.register_static
  @dataclasses.dataclass(frozen=True)
  class Identity:
    def decode(self, latents):
      return latents

  latents = jnp.array([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 1, 2, 3)
  assert np.asarray(sample.decode(Identity(), latents)).ravel().tolist() == [0, 0, 128, 191, 255, 255]


def test_decoding_undoes_the_codec():
  codec = CODECS["block_dct_488"]()
  video = jnp.full((2, 5, 8, 16, 3), 0.2)
  frames = np.asarray(sample.decode(codec, codec.encode(video)))
  assert frames.shape == video.shape and frames.dtype == np.uint8
  assert np.abs(frames.astype(int) - 153).max() <= 1
