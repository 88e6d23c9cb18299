"""How long the compiler takes over a training step: cold, and from the cache on disk, as a run that resumes finds it."""

import contextlib
import os
import tempfile
import time

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from motif_jax import compiled, sharding
from motif_jax.bench.case import Case, Job
from motif_jax.bench.sizes import STRIDES
from motif_jax.bench.steps import batch_of, variant_of
from motif_jax.budget import workload
from motif_jax.config import Config
from motif_jax.mesh import batch_sharding, make_mesh
from motif_jax.model.plan import Segment
from motif_jax.train import step as training
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import abstract_frozen, abstract_state

CACHE = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0.0,
         "jax_persistent_cache_min_entry_size_bytes": -1}


def cases(job: Job) -> list[Case]:
  """The dense step of every config at its first bucket, one sample per device."""
  return [_case(job, name, buckets[0]) for name, buckets in job.sizes.steps.items()]


def _case(job, name, bucket):
  cfg = variant_of(job.load(name), "dense")
  settings = {"config": name, "bucket": [bucket.frames, bucket.height, bucket.width], "remat": cfg.model.remat,
              "attention": cfg.model.attention, "dtype": cfg.model.dtype, "config keys": job.changed}
  grid = workload.latent_grid(bucket, STRIDES)
  size = f"{bucket.frames}x{bucket.height}x{bucket.width}"
  return Case(f"compile/{name}/{size}", settings, measure=lambda: compile_times(cfg, grid))


def compile_times(cfg: Config, grid: tuple[int, int, int]) -> dict:
  """Seconds of tracing and lowering, of compiling, and of compiling what the cache holds; no array is made."""
  with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
    lower_s, cold_s, _ = _compile(cfg, grid)
    if not os.listdir(folder):
      raise ValueError("jax wrote nothing to its compilation cache, so there is no cached time to measure.")
    _, cached_s, executable = _compile(cfg, grid)
  return {"lower_s": lower_s, "compile_s": cold_s, "cached_s": cached_s, "planned_bytes": compiled.memory(executable).total}


def lowered(cfg: Config, mesh: Mesh, grid: tuple[int, int, int], plan: tuple[Segment, ...], *,
            image: int = 0) -> jax.stages.Lowered:
  """The training step for latents of that grid (frames, height, width) and so many image tokens on `mesh`, lowered from shapes
  alone."""
  optimizer = make_optimizer(cfg.optimizer, steps=cfg.train.steps)
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  state = abstract_state(cfg, optimizer)
  state = jax.tree.map(place, state, sharding.state_shardings(state, mesh))
  batch = jax.tree.map(lambda x: place(x, batch_sharding(mesh)), jax.eval_shape(lambda: batch_of(cfg, grid, seed=0, image=image)))
  frozen = abstract_frozen(cfg) if cfg.adapter.rank else None
  run = training.make_train_step(cfg, mesh, optimizer, plan=plan, frozen=frozen)
  beside = () if frozen is None else (jax.tree.map(place, frozen, sharding.parameter_shardings(frozen, mesh)),)
  with jax.set_mesh(mesh):
    return run.jitted.lower(state, batch, training.ABSTRACT_KEY, *beside)


def _compile(cfg, grid):
  jax.clear_caches()  # those in memory
  started = time.perf_counter()
  step = lowered(cfg, make_mesh(cfg.mesh), grid, training.plan_at(cfg, 0))
  lower_s = time.perf_counter() - started
  executable = step.compile()
  return lower_s, time.perf_counter() - started - lower_s, executable


@contextlib.contextmanager
def _cache_in(folder):
  """jax's compilation cache in `folder`, empty at first; afterwards as it was."""
  before = {key: getattr(jax.config, key) for key in CACHE}
  try:
    for key, value in (CACHE | {"jax_compilation_cache_dir": folder}).items():
      jax.config.update(key, value)
    compilation_cache.reset_cache()  # it reads its folder once
    yield
  finally:
    for key, value in before.items():
      jax.config.update(key, value)
    compilation_cache.reset_cache()
