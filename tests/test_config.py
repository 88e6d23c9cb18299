"""From ConfigDict to frozen dataclasses: what a user can type wrong is said, all of it at once."""

import dataclasses
import functools
import importlib
import pathlib
import re

import jax
import pytest

from configs import base, curriculum
from motif_jax import config, config_rules, sharding
from motif_jax.budget import recipe
from motif_jax.evaluate import benchmarks
from motif_jax.flow import samplers, times
from motif_jax.model import attention, routing, stack, transformer
from motif_jax.train import average, optimizer
from motif_jax.train.state import abstract_state

ROOT = pathlib.Path(__file__).parent.parent
STAGES = sorted(path.stem for path in (ROOT / "configs" / "stages").glob("stage_*.py"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiments").glob("[!_]*.py"))
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if "def get_config" in path.read_text())


REGISTRIES = {
    "model.remat": stack.REMAT, "model.attention": attention.BACKENDS, "route.policy": routing.POLICIES,
    "optimizer.kind": optimizer.OPTIMIZERS, "optimizer.average": average.DECAYS, "optimizer.decay": optimizer.DECAYS,
    "sample.sampler": samplers.SAMPLERS, "train.benchmark": benchmarks.BENCHMARKS,
    "sample.token_shift.kind": {"none", *times.TOKEN_SHIFTS},
}


@pytest.mark.parametrize("key", REGISTRIES)
def test_a_config_may_name_what_exists_and_nothing_else(key):
  assert set(config_rules.CHOICES[key]) == set(REGISTRIES[key])


def _config(name):
  return config.from_config_dict(importlib.import_module(f"configs.{name}").get_config())


@functools.cache
def _velocity(model):
  """The shape of the velocity of a model at full size, from shapes alone."""
  params = jax.eval_shape(lambda key: transformer.init(key, model), jax.random.key(0))
  shapes = dict(latents=(1, 2, 4, 4, 2 * model.latent_channels + 1), t=(1,), text=(1, 3, model.text_dim))
  inputs = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes.values()]
  return jax.eval_shape(lambda p, *x: transformer.apply(p, model, *x), params, *inputs)[0].shape


@functools.cache
def _abstract(model, alignment, optimizer_config):
  """The abstract state; what else is in a config does not change it."""
  cfg = dataclasses.replace(_config("base"), model=model, alignment=alignment)
  return abstract_state(cfg, optimizer.make_optimizer(optimizer_config, steps=1))


NESTED = [*(f"stages.{name}" for name in STAGES), *(f"experiments.{name}" for name in EXPERIMENTS)]


@pytest.mark.parametrize("name", [*CONFIGS, *NESTED])
def test_every_config_checks_and_traces_at_full_size(name):
  cfg = _config(name)
  assert hash(cfg) == hash(_config(name))
  # Rates do not change shapes, but their patterns have to fit.
  plain = dataclasses.replace(cfg.optimizer, rate=1.0, warmup=1, decay="constant", decay_share=1.0)
  state = _abstract(cfg.model, dataclasses.replace(cfg.alignment, teacher="gradients"), plain)
  assert ("projector" in state.params) == (cfg.alignment.weight > 0)
  assert _velocity(cfg.model) == (1, 2, 4, 4, cfg.model.latent_channels)


@pytest.mark.parametrize("number", range(1, 11))
def test_stages_are_those_of_the_budget(number):
  cfg, planned = _config(f"stages.stage_{number:02d}"), recipe.STAGES[number - 1]
  assert cfg.sample.bucket == planned.bucket and cfg.data.text_tokens == planned.text
  assert cfg.train.steps * cfg.data.batch_size == pytest.approx(planned.samples, rel=0.01)
  assert (cfg.route.keep < 1, cfg.alignment.weight > 0) == (planned.routed, planned.aligned)
  assert (cfg.model.cross_attention.kind == "shared") == planned.cross
  assert cfg.data.pattern == (() if planned.images == 1 else ("image", "video", "video"))


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_small_copy(name):
  c = importlib.import_module(f"configs.stages.{name}").get_config()
  full, small = config.from_config_dict(c), config.from_config_dict(curriculum.shrunken(c))
  same = lambda cfg: (cfg.model.cross_attention, cfg.route.keep, cfg.alignment.weight, cfg.times.shift, cfg.data.pattern,
                      cfg.optimizer.rates, cfg.optimizer.decay)
  assert same(small) == same(full)


def test_a_narrower_model_has_higher_rates_for_its_matrices_alone():
  for name, width in (("motif_s", 512), ("motif_b", 1024), ("motif_2b", 1536)):
    cfg = _config(name)
    factors = [factor for _, factor in cfg.optimizer.rates]
    assert cfg.model.width == width and factors == ([] if width == 1536 else [1536 / width] * 2)
  rates = _config("motif_s").optimizer.rates
  paths = [sharding.parameter_name(path) for path, _ in sharding.paths_of(_abstract(
      _config("motif_s").model, _config("base").alignment, _config("motif_s").optimizer).params)]
  fixed = {path for path in paths if path.endswith("kernel") and not any(re.fullmatch(p, path) for p, _ in rates)}
  assert fixed == {"video_embed/kernel", "text_embed/up/kernel", "time_embed/up/kernel", "image_embed/up/kernel",
                   "image_embed/down/kernel"}  # from features of fixed size


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
    ("sample.guidance.scale", float("nan"), "sample.guidance.scale is nan, expected a number"),
    ("model.mlp_ratio", 0.0, "model.mlp_ratio is 0.0, expected a positive number"),
    ("model.mlp_ratio", 4.0001, "times model.width 1536 is not a whole number; the nearest ratios that make one: 4.0, 4.000651"),
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
    ("data.order", "shard", "did you mean 'shards'"),
    ("data.order", "shards", "in one process, .* data.workers is 4, expected 0 or 1"),
    ("data.window", 0, "data.window is 0, expected at least 1"),
    ("data.weights", (("image", 1.0), ("video", -1.0)), "shares of 0 or more"),
    ("data.weights", (("image", 0.0),), "one of them positive"),
    ("data.weights", (("image", "video"),), r"data.weights\[0\]\[1\] is 'video' of type str, expected float"),
    ("data.weights", (("image",),), r"data.weights\[0\] is \('image',\), expected 2 values of type str and float"),
    ("data.mixture", (("a", 1.0), ("b", 0.0)), "each folder a positive share"),
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
