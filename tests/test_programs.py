"""Claims about the programs of a run: how many it compiles is said before it starts."""

import collections
import contextlib
import dataclasses

import jax
from jax.experimental.compilation_cache import compilation_cache
import pytest

from launch import arguments
from motif_jax import config, mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.data import dataset as datasets, pipeline
from motif_jax.train import loop, programs
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.step import plan_at
from tests import small_data, tiny

CACHE = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0.0,
         "jax_persistent_cache_min_entry_size_bytes": -1}
COMPILED = "/jax/core/compile/backend_compile_duration"


def _config(**train):
  c = tiny.config_dict()
  c.model.update(dict(latent_channels=5, text_dim=7, depths=dict(dual=0, single=1, decoder=0)))
  c.route.update(dict(stop=1, groups=2, last_step=2))
  c.alignment.weight = 0.0
  c.data.update(dict(batch_size=4, validation=0.3, text_tokens=6, pattern=("video", "image")))
  c.train.update(dict(steps=3, telemetry_every=2, validate_every=3, validation_batches=1, save_every=3, log_every=3) | train)
  return config.from_config_dict(c)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = small_data.write(tmp_path_factory.mktemp("data"), {small_data.VIDEO: 12, small_data.IMAGE: 14})
  return datasets.open_dataset(folder)


@contextlib.contextmanager
def _counted():
  """Counts compilations by the name of the function, and what jax's cache on disk had or had not."""
  count = collections.Counter()
  of_time = lambda event, seconds, fun_name=None, **_: count.update([fun_name] * (event == COMPILED))
  of_cache = lambda event, **_: count.update([event])
  jax.monitoring.register_event_duration_secs_listener(of_time)
  jax.monitoring.register_event_listener(of_cache)
  try:
    yield count
  finally:
    jax.monitoring.unregister_event_duration_listener(of_time)
    jax.monitoring.unregister_event_listener(of_cache)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """Programs are kept on disk, the smallest too."""
  before = {key: getattr(jax.config, key) for key in CACHE}
  for key, value in (CACHE | {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs"))}).items():
    jax.config.update(key, value)
  compilation_cache.reset_cache()
  yield
  for key, value in before.items():
    jax.config.update(key, value)
  compilation_cache.reset_cache()


def _job(cfg, dataset, workdir):
  held_out = pipeline.validation_batches(cfg.data, dataset, count=cfg.train.validation_batches)
  return loop.Job(cfg, str(workdir), meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1]),
                  make_optimizer(cfg.optimizer, steps=cfg.train.steps), held_out=held_out,
                  batches=lambda step: pipeline.batches(cfg.data, dataset, seed=0, start_step=step, patch=cfg.model.patch),
                  programs=lambda start: programs.of_run(cfg, dataset, [bucket for bucket, _ in held_out], start=start))


@pytest.fixture(scope="module")
def first_run(kept, dataset, tmp_path_factory):
  """What a run, started where no program is kept, compiled and said."""
  said = []
  jax.clear_caches()  # of other tests, which would not be kept
  with _counted() as count, pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "say", lambda *lines: said.extend(lines))
    loop.run(_job(_config(), dataset, tmp_path_factory.mktemp("first")))
  return count, "\n".join(said)


def test_a_run_compiles_the_programs_that_it_foretells(dataset, first_run):
  foretold = collections.Counter(program.name for program in programs.of_run(_config(), dataset, [small_data.VIDEO]))
  assert foretold == {programs.STEP: 2, programs.MEASURED: 1, "validation": 1}  # images come on steps that measure closely, alone
  count, said = first_run
  assert {name: count[name] for name in ("jit(step)", "jit(validation_step)")} == {"jit(step)": 3, "jit(validation_step)": 1}
  assert "programs: 4 to compile: 2 x training step, 1 x training step with telemetry" in said


def test_a_second_start_compiles_nothing(first_run, dataset, tmp_path):
  jax.clear_caches()
  with _counted() as count:
    loop.run(_job(_config(), dataset, tmp_path))
  assert count["/jax/compilation_cache/cache_misses"] == 0
  assert count["/jax/compilation_cache/cache_hits"] >= 4 and first_run[0]["/jax/compilation_cache/cache_misses"] >= 4


@pytest.mark.parametrize("given, variable, expected", [
    (None, None, "user/programs"), (None, "theirs", "theirs"), ("mine", None, "mine"), ("mine", "theirs", "mine")])
def test_programs_are_kept_unless_the_user_says_no(kept, monkeypatch, given, variable, expected):
  monkeypatch.setenv("MOTIF_JAX_CACHE", "user")
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", variable)  # as jax itself does with the environment's, at its import
  arguments.keep_programs(given)
  assert jax.config.jax_compilation_cache_dir == expected and jax.config.jax_enable_compilation_cache
  arguments.keep_programs("none")
  assert not jax.config.jax_enable_compilation_cache
  jax.config.update("jax_compilation_cache_dir", before)
  jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.parametrize("changes, start", [
    (dict(steps=40, telemetry_every=7), 0), (dict(steps=40, telemetry_every=1), 0), (dict(steps=9, telemetry_every=0), 0),
    (dict(steps=40, telemetry_every=4), 13), (dict(steps=40, telemetry_every=4), 40)])
@pytest.mark.parametrize("pattern", [("video", "image"), ("video", "video", "image"), ()])
def test_the_steps_that_are_foretold_are_those_of_the_schedule(dataset, changes, start, pattern):
  cfg = _config(**changes)
  cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, pattern=pattern),
                            route=dataclasses.replace(cfg.route, last_step=20),
                            alignment=dataclasses.replace(cfg.alignment, weight=0.5, tap=1, last_step=11))
  order = pipeline.make_order(cfg.data, dataset, pipeline.split_indices(dataset, 0.3)[0], seed=0, patch=cfg.model.patch)
  every = cfg.train.telemetry_every
  wanted = {(plan_at(cfg, step), order.schedule.at(step)[0], every > 0 and (step + 1) % every == 0)
            for step in range(start, cfg.train.steps)}
  found = programs.of_steps(cfg, dataset, start=start)
  assert len(found) == len(wanted)
  assert collections.Counter(p.name == programs.MEASURED for p in found) == collections.Counter(closely for *_, closely in wanted)


def test_samples_and_the_judge_are_programs_too(dataset):
  cfg = _config()
  sampled = dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, prompts=("a", "b")),
                                train=dataclasses.replace(cfg.train, judge=8))
  count = lambda cfg: len(programs.of_run(cfg, dataset, [small_data.VIDEO, small_data.IMAGE, small_data.VIDEO]))
  assert count(cfg) == 3 + 2 and count(sampled) == 3 + 2 + 4


def test_the_line_says_when_a_program_is_new(dataset):
  said = programs.line(programs.of_run(_config(), dataset, [small_data.VIDEO]))
  assert said == ("programs: 4 to compile: 2 x training step, 1 x training step with telemetry, 1 x validation; "
                  "buckets 5x24x32, 1x24x32; new ones at step 2")
