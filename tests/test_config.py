"""From ConfigDict to frozen dataclasses: what a user can type wrong is said, all of it at once."""

import dataclasses
import importlib
import pathlib

import jax
import pytest

from configs import base
from motif_jax import config, config_rules
from motif_jax.flow import samplers, times
from motif_jax.model import attention, routing, stack, transformer
from motif_jax.train import optimizer
from motif_jax.train.state import abstract_state

CONFIGS = sorted(path.stem for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py") if path.stem != "__init__")


REGISTRIES = {
    "model.remat": stack.REMAT, "model.attention": attention.BACKENDS, "route.policy": routing.POLICIES,
    "optimizer.kind": optimizer.OPTIMIZERS, "optimizer.decay": optimizer.DECAYS, "sample.sampler": samplers.SAMPLERS,
    "sample.token_shift.kind": {"none", *times.TOKEN_SHIFTS},
}


@pytest.mark.parametrize("key", REGISTRIES)
def test_a_config_may_name_what_exists_and_nothing_else(key):
  assert set(config_rules.CHOICES[key]) == set(REGISTRIES[key])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_checks_and_traces_at_full_size(name):
  cfg = config.from_config_dict(importlib.import_module(f"configs.{name}").get_config())
  assert hash(cfg) == hash(config.from_config_dict(importlib.import_module(f"configs.{name}").get_config()))
  state = abstract_state(cfg, optimizer.make_optimizer(cfg.optimizer, steps=cfg.train.steps))
  channels = cfg.model.latent_channels
  shapes = dict(latents=(1, 2, 4, 4, 2 * channels + 1), t=(1,), text=(1, 3, cfg.model.text_dim))
  inputs = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes.values()]
  velocity, _ = jax.eval_shape(lambda p, *x: transformer.apply(p, cfg.model, *x), state.params["model"], *inputs)
  assert velocity.shape == (1, 2, 4, 4, channels)


def test_an_unknown_key_is_answered_with_the_nearest():
  c = base.get_config()
  with c.unlocked():
    c.model.widht = 8
  with pytest.raises(ValueError, match="model.widht is not a config key; did you mean model.width"):
    config.from_config_dict(c)


def test_a_missing_key_is_named():
  c = base.get_config()
  with c.unlocked():
    del c.optimizer["ema"]
  with pytest.raises(ValueError, match="optimizer.ema is missing"):
    config.from_config_dict(c)


@pytest.mark.parametrize("key, value, said", [
    ("model.width", "wide", "model.width is 'wide' of type str, expected int"),
    ("model.width", 100.0, "model.width is 100.0 of type float, expected int"),
    ("model.depths", 3, "model.depths is 3, expected a section with the keys dual, single, decoder"),
    ("model.patch", (1, 2), "model.patch is \\(1, 2\\), expected 3 values of type int"),
    ("model.width", 1537, "not divisible by model.heads 12; the nearest widths that are: 1536, 1548"),
    ("model.rope_axes", (16, 56, 54), "sum to 126; expected three even numbers that sum to the head width"),
    ("model.rope_axes", (17, 55, 56), "three even numbers"),
    ("model.cross_attention.kind", "shard", "did you mean 'shared'"),
    ("model.cross_attention.kind", "separate", "query_norm is 'scale', but .* of kind 'separate' has no such norm, only 'shared'"),
    ("model.dtype", "float16", "model.dtype is 'float16', expected one of 'float32', 'bfloat16'"),
    ("model.attention", "flash", "model.attention is 'flash', expected one of 'xla', 'chunked', 'cudnn'"),
    ("model.remat", "all", "model.remat is 'all', expected one of"),
    ("route.keep", 0.0, "route.keep is 0.0, expected a share in"),
    ("route.groups", 0, "route.groups is 0, expected at least 1"),
    ("data.caption_drop", 1.5, "data.caption_drop is 1.5, expected a share"),
    ("data.captions", (0.5, 0.5, 0.5), "three probabilities that sum to 1"),
    ("data.batch_size", 0, "data.batch_size is 0, expected at least 1"),
    ("times.shift", 0.0, "times.shift is 0.0, expected a positive number"),
    ("optimizer.kind", "adam", "optimizer.kind is 'adam', expected one of 'adamw', 'muon'; did you mean 'adamw'"),
    ("optimizer.decay", "cosin", "did you mean 'cosine'"),
    ("sample.sampler", "eulr", "did you mean 'euler'"),
    ("sample.sigmas", (1.0, 0.4, 0.4), "expected times that fall"),
    ("sample.sigmas", (1.2, 0.4), "from at most 1"),
    ("sample.sigmas", (1.0, 0.4, 0.0), "are 2 steps .* sample.steps is 50"),
    ("sample.token_shift", dict(kind="linear", between=(9, 9), mu=(0.5, 1.0)), "tokens 0 < first < last"),
    ("sample.token_shift", dict(kind="linear", between=(8, 9), mu=(-0.5, 1.0)), "positive mu"),
    ("sample.cache.skip", (0, 3), "numbers of steps that rise, from 1"),
    ("sample.cache.skip", (3, 50), "to 49, sample.steps less 1"),
    ("sample.cache.order", 2, "expected 0 .* or 1"),
    ("mesh.data", 0, "each must be positive"),
    ("train.steps", 0, "train.steps is 0, expected at least 1"),
    ("train.accumulate", 0, "train.accumulate is 0, expected at least 1"),
    ("train.accumulate", 7, "nearest batch sizes that do: 63, 70; the nearest train.accumulate: 4, 8"),
])
def test_a_bad_value_is_answered_with_what_was_expected(key, value, said):
  c = base.get_config()
  values = c.to_dict()
  section, *rest = key.split(".")
  target = values
  for part in [section, *rest][:-1]:
    target = target[part]
  target[key.split(".")[-1]] = value
  with pytest.raises(ValueError, match=said):
    config.from_config_dict(values)


def test_a_route_into_the_decoder_is_refused():
  c = base.get_config()
  c.route.update(dict(keep=0.5, start=2, stop=30))
  with pytest.raises(ValueError, match="must lie in \\[0, 28\\).*decoder always sees every token"):
    config.from_config_dict(c)


def test_two_axes_of_minus_one_are_refused():
  c = base.get_config()
  c.mesh.update(dict(data=-1, fsdp=-1))
  with pytest.raises(ValueError, match="at most one -1"):
    config.from_config_dict(c)


def test_all_problems_are_told_at_once():
  c = base.get_config()
  c.model.width, c.data.caption_drop, c.train.steps = 1537, 2.0, 0
  with pytest.raises(ValueError, match="3 problem"):
    config.from_config_dict(c)


def test_a_config_survives_json():
  cfg = config.from_config_dict(base.get_config())
  assert config.from_config_dict(config.to_dict(cfg)) == cfg


def test_every_field_of_the_model_is_frozen():
  cfg = config.from_config_dict(base.get_config())
  with pytest.raises(dataclasses.FrozenInstanceError):
    cfg.model.width = 3
