"""Claims about the memory of sampling in closed form."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import motif_2b
from motif_jax import compiled, config, mesh as meshes, pipeline
from motif_jax.budget import devices, sampling, workload
from motif_jax.config import BucketConfig
from motif_jax.flow import samplers, times
from motif_jax.model import transformer
from tests.test_budget import small

CLIP, TOKENS = BucketConfig(121, 736, 1280), workload.Tokens(114_080, 512)
ONE = workload.make_split((1, 1, 1), 12)


def released(attention="cudnn"):
  cfg = config.from_config_dict(motif_2b.get_config())
  encoders = dataclasses.replace(cfg.encoders, text="t5gemma2", codec="wan_vae")
  return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, attention=attention), encoders=encoders)


def test_bytes_of_a_walk_are_those_that_xla_plans():
  """In float32: XLA on CPU (jax 0.10.2) multiplies bfloat16 as float32, and then plans twice as much."""
  cfg = small(model__attention="chunked", alignment__weight=0.5)
  shaped = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  params = jax.eval_shape(lambda key: transformer.init(key, cfg.model), jax.random.key(0))
  params = jax.tree.map(lambda leaf: shaped(*leaf.shape), params)

  def walk(params, noise, text):
    latents = lambda x: jnp.concatenate([x, x, x[..., :1]], axis=-1)
    v = lambda x, t: transformer.apply(params, cfg.model, latents(x), jnp.full(len(x), t), text)[0]
    return samplers.integrate(v, noise, times.grid(3, 3.0), "euler")

  planned = compiled.memory(jax.jit(walk).lower(params, shaped(2, 4, 64, 32, 8), shaped(2, 64, 64)).compile())
  alone = dataclasses.replace(cfg, sample=dataclasses.replace(
      cfg.sample, guidance=dataclasses.replace(cfg.sample.guidance, together=False)))
  ours = sampling.network(alone, workload.Tokens(2048, 64), workload.make_split((1, 1, 1), 4), 2, weights="float32")
  assert cfg.alignment.weight and ours["weights"] == 4 * sum(leaf.size for leaf in jax.tree.leaves(params))  # no projector
  assert ours["weights"] == pytest.approx(planned.arguments, rel=0.08)  # beside them noise and text
  assert sampling.total(ours) - ours["weights"] == pytest.approx(planned.temporary, rel=0.15)


def test_a_clip_at_720p_needs_twenty_four_gigabytes_a_phase_at_a_time():
  needs = {name: sampling.total(parts) / 1e9 for name, parts in
           sampling.phases(released(), CLIP, TOKENS, ONE, 1, weights="bfloat16").items()}
  assert needs == pytest.approx(dict(texts=8.3, latents=24.0, frames=13.8), rel=0.02)


def test_devices_share_weights_and_work():
  one, cut = (sampling.phases(released(), CLIP, TOKENS, workload.make_split(sizes, 12), 1, weights="bfloat16")
              for sizes in ((1, 1, 1), (2, 2, 3)))
  ratio = lambda phase, part: one[phase][part] / cut[phase][part]
  assert ratio("texts", "weights") == pytest.approx(6) and ratio("texts", "alive") == pytest.approx(4)
  assert ratio("latents", "weights") == pytest.approx(6, rel=0.02) and ratio("latents", "latents") == 1
  assert ratio("latents", "one block") == pytest.approx(3, rel=0.1)
  assert one["latents"]["block weights"] == 0 < cut["latents"]["block weights"] < 0.1 * one["latents"]["weights"]
  halves = sampling.network(released(), TOKENS, workload.make_split((1, 2, 1), 12), 1, weights="bfloat16")
  assert halves["block weights"] == cut["latents"]["block weights"]  # one block's are gathered, from however many devices
  assert (ratio("frames", "weights"), ratio("frames", "alive"), ratio("frames", "videos")) == pytest.approx((6, 3, 1))


def test_more_videos_and_both_passes_at_once_take_as_much_more():
  network = lambda rows, **how: sampling.network(guided(**how), TOKENS, ONE, rows, weights="bfloat16")
  latents = 31 * 92 * 160 * 16  # numbers
  arrays = lambda rows, together: network(rows, together=together)["latents"] / (4 * latents)
  assert [arrays(1, False), arrays(2, False), arrays(1, True)] == [10, 20, 14]
  with_logits, without = (network(1, together=True, attention=kind)["one block"] for kind in ("xla", "cudnn"))
  assert with_logits - without == 2 * 2 * 4 * 12 * (2 * 114_080) ** 2  # passes, arrays, bytes, heads; both halves ask
  one, two = (sampling.frames(released(), CLIP, ONE, rows) for rows in (1, 2))
  assert two == {"weights": one["weights"], "alive": 2 * one["alive"], "videos": 2 * one["videos"]}


def guided(*, together, attention="cudnn"):
  cfg = released(attention)
  how = dataclasses.replace(cfg.sample, guidance=dataclasses.replace(cfg.sample.guidance, together=together))
  return dataclasses.replace(cfg, sample=how)


def test_encoders_without_weights_are_no_phase():
  cfg = dataclasses.replace(released(), encoders=dataclasses.replace(released().encoders, text="word_hash", codec="block_dct"))
  assert list(sampling.phases(cfg, CLIP, TOKENS, ONE, 1, weights="bfloat16")) == ["latents"]


@pytest.fixture
def pipe(monkeypatch):
  """A pipeline of the released encoders and a shallow network, both passes of guidance in turn, on a device of so many GB."""
  cfg = released()
  how = dataclasses.replace(cfg.sample, bucket=CLIP, guidance=dataclasses.replace(cfg.sample.guidance, together=False))
  cfg = dataclasses.replace(cfg, sample=how, model=dataclasses.replace(cfg.model, depths=config.Depths(1, 1, 1)))
  mesh = meshes.make_mesh(config.MeshConfig(1, 1, 1), devices=jax.devices()[:1])

  def made(gigabytes):
    monkeypatch.setattr(pipeline, "device_memory", lambda mesh: gigabytes and gigabytes * 1e9)
    found = pipeline.Pipeline(cfg, dict, mesh)
    encoder = types.SimpleNamespace(name="t5gemma2", version="1")
    codec = types.SimpleNamespace(strides=(4, 8, 8), grid=lambda frames, height, width: (31, 92, 160))
    vars(found)["announced"] = dict(text=encoder, codec=codec)
    return found

  return made


WEIGHTS, TEXT = dict(w=np.zeros((), jnp.bfloat16)), [np.zeros((512, 4))]


def test_each_phase_says_beforehand_that_it_does_not_fit_and_what_would(pipe):
  with pytest.raises(ValueError, match=r"encoding texts needs about 8.3 GB on each device, of 4 GB; .*: --mesh=1x4x1\."):
    pipe(4).texts(["a"])
  with pytest.raises(ValueError, match=r"sampling 3 videos .* of 14 GB; what would fit: --batch=1\."):
    pipe(14).check_memory(WEIGHTS, TEXT, rows=3)
  for ask in (lambda: pipe(14).check_memory(WEIGHTS, TEXT, rows=1), lambda: next(pipe(14).frames([np.zeros(1)], batch=1))):
    with pytest.raises(ValueError, match=r"decoding 1 videos .* about 13.8 GB .* of 14 GB; .*: --batch=1 --mesh=1x1x2\."):
      ask()
  pipe(16).check_memory(WEIGHTS, TEXT, rows=1)
  pipe(None).check_memory(WEIGHTS, TEXT, rows=1000)  # a device that does not say


def test_advice_goes_from_mild_to_strong_and_may_be_none():
  advice = lambda gigabytes, rows=1, cfg=released(): sampling.nearest_fit(
      cfg, TOKENS, ONE, rows, devices.Device(gigabytes * 1e9, 0, 0, 0), weights="bfloat16")
  assert advice(80, rows=4) == "--batch=1" and advice(20) == "--batch=1 --together=0"
  assert advice(20, cfg=released("xla")) == "--batch=1 --together=0 and model.attention=cudnn"
  assert advice(10).startswith("--batch=1 --together=0 --mesh=1x1x2") and advice(1) is None


def test_advice_fills_the_usable_share_of_a_device_and_no_more():
  needed = sampling.total(sampling.network(released(), TOKENS, ONE, 1, weights="bfloat16")) / devices.USABLE
  advice = lambda memory: sampling.nearest_fit(released(), TOKENS, ONE, 2, devices.Device(memory, 0, 0, 0), weights="bfloat16")
  assert advice(1.01 * needed) == "--batch=1" and advice(0.99 * needed) == "--batch=1 --together=0"


def test_texts_are_cut_over_the_fewest_devices_that_hold_their_share_of_encoder_and_batch():
  needed = sampling.total(sampling.texts(released(), workload.make_split((1, 2, 1), 12))) / devices.USABLE
  assert sampling.nearest_texts(released(), ONE, devices.Device(1.01 * needed, 0, 0, 0)) == "--mesh=1x2x1"
