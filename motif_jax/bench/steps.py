"""Whole steps: training (dense, routed, aligned) and sampling (one evaluation with guidance), by config and resolution."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from motif_jax.bench.case import Case, Job, Prepared, lively, normals
from motif_jax.bench.sizes import STRIDES
from motif_jax.budget import devices, flops, memory, workload
from motif_jax.config import Config
from motif_jax.flow import samplers, times
from motif_jax.flow.guidance import classifier_free, guided
from motif_jax.mesh import batch_sharding, make_mesh
from motif_jax.model import transformer
from motif_jax.model.conditioning import network_input
from motif_jax.model.plan import Segment
from motif_jax.train import step as training
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import init_state

VARIANTS = {"dense": (1.0, 0.0), "routed": (0.5, 0.0), "aligned": (1.0, 0.5)}  # (route.keep, alignment.weight)
TEACHER_GRID = (16, 16)  # of a teacher's features: V-JEPA 2 at 256 pixels
BLURS = 4  # of the first frame in a record


def train_cases(job: Job) -> list[Case]:
  """Training steps: dense at every bucket first, then routed and aligned."""
  return [_train_case(job, name, bucket, variant)
          for variant in VARIANTS for name, buckets in job.sizes.steps.items() for bucket in buckets]


def sample_cases(job: Job) -> list[Case]:
  """A step of sampling one clip, which is the conditional and the unconditional pass in one batch."""
  return [_sample_case(job, name, bucket) for name, buckets in job.sizes.steps.items() for bucket in buckets]


def variant_of(cfg: Config, variant: str) -> Config:
  """`cfg` routed, aligned or neither, from the first step to the last."""
  keep, weight = VARIANTS[variant]
  return dataclasses.replace(cfg, route=dataclasses.replace(cfg.route, keep=keep, last_step=0),
                             alignment=dataclasses.replace(cfg.alignment, weight=weight, last_step=0))


def _train_case(job, name, bucket, variant):
  cfg = variant_of(job.load(name), variant)
  mesh = make_mesh(cfg.mesh)
  split = workload.make_split(tuple(mesh.shape.values()), cfg.model.heads, accumulate=1)
  grid = workload.latent_grid(bucket, STRIDES)
  tokens, plan = workload.tokens_of(cfg.model, grid, cfg.data.text_tokens), training.plan_at(cfg, 0)
  rows = rows_of(cfg, tokens, plan, split, job)
  cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, batch_size=rows * split.batch, batch_tokens=0),
                            train=dataclasses.replace(cfg.train, accumulate=1))
  model, executed = train_flops(cfg, tokens, plan, split, rows)
  settings = _settings(job, name, bucket, cfg, tokens) | {
      "batch": cfg.data.batch_size, "mesh": list(mesh.shape.values()), "remat": cfg.model.remat, "optimizer": cfg.optimizer.kind,
      "keep": cfg.route.keep, "plan": " | ".join(map(str, plan))}
  state = sum(memory.state_bytes(cfg, split).values())
  refusal = "" if state < job.memory else f"out of memory: state and gradients have {state / 1e9:.3g} GB on each device"
  return Case(f"train/{name}/{variant}/{bucket.frames}x{bucket.height}x{bucket.width}", settings,
              lambda: prepared_training(cfg, mesh, grid, plan), model=model, executed=executed, dtype=cfg.model.dtype,
              refusal=refusal)


def rows_of(cfg: Config, tokens: workload.Tokens, plan, split: workload.Split, job: Job) -> int:
  """Samples of each device: a power of two that fits by the budget, with no more video tokens than allowed; at least 1."""
  device = dataclasses.replace(devices.DEVICES["h200"], memory=job.memory)
  most = min(devices.largest_rows(cfg, tokens, plan, split, device), job.sizes.tokens // tokens.video)
  return 1 << max(0, most.bit_length() - 1)


def train_flops(cfg: Config, tokens: workload.Tokens, plan, split: workload.Split, rows: int) -> tuple[float, float]:
  """(model, executed) FLOPs of one device in a step on `rows` samples of its own."""
  model = rows * flops.model_flops(cfg.model, tokens).total / split.sequence
  executed = rows * sum(part.total for part in flops.executed(cfg, tokens, plan, split).values())
  if cfg.optimizer.kind == "muon":
    executed += flops.muon(memory.muon_matrices(cfg)) / split.state
  return model, executed


def prepared_training(cfg: Config, mesh: Mesh, grid: tuple[int, int, int], plan: tuple[Segment, ...]) -> Prepared:
  """The training step of `cfg` on random batches with latents of that grid (frames, height, width)."""
  optimizer = make_optimizer(cfg.optimizer, steps=cfg.train.steps)
  state = init_state(jax.random.key(0), cfg, mesh, optimizer)
  state = state.replace(params=lively(state.params))
  batch = lambda seed: jax.tree.map(lambda x: jax.device_put(x, batch_sharding(mesh)), batch_of(cfg, grid, seed=seed))
  run = training.make_train_step(cfg, mesh, optimizer, plan=plan)
  return Prepared(run.jitted, [(state, batch(i), jax.random.key(cfg.seed)) for i in range(2)], carry=True, mesh=mesh)


def batch_of(cfg: Config, grid: tuple[int, int, int], *, seed: int, image: int = 0) -> dict:
  """A batch of random numbers with latents of that grid, as the pipeline would yield it; a quarter of the text is real.  With
  `image` tokens of the first frame, where there are any."""
  rows = cfg.data.rows(workload.tokens_of(cfg.model, grid, cfg.data.text_tokens).video)
  text, channels = cfg.data.text_tokens, cfg.model.latent_channels
  latents, first, features, teacher, pictures = normals(
      seed, (rows, *grid, channels), (rows, BLURS, *grid[1:], channels), (rows, text, cfg.model.text_dim),
      (rows, grid[0], *TEACHER_GRID, cfg.alignment.teacher_dim), (rows, image, cfg.model.image_dim))
  mask = jnp.broadcast_to(jnp.arange(text) < text // 4, (rows, text))
  beside = dict(image=pictures) if image else {}
  return dict(latents=latents, first_frame=first, text=features, text_mask=mask, teacher=teacher, **beside)


def _sample_case(job, name, bucket):
  cfg = job.load(name)
  grid = workload.latent_grid(bucket, STRIDES)
  tokens = workload.tokens_of(cfg.model, grid, cfg.data.text_tokens)
  settings = _settings(job, name, bucket, cfg, tokens) | {"clips": 1, "guidance": "classifier-free", "sampler": "euler"}
  return Case(f"sample/{name}/{bucket.frames}x{bucket.height}x{bucket.width}", settings, lambda: prepared_sampling(cfg, grid),
              model=2 * flops.forward(dataclasses.replace(cfg.model, attention="xla"), tokens).total,
              executed=2 * flops.evaluated(cfg.model, tokens).total, dtype=cfg.model.dtype)


def prepared_sampling(cfg: Config, grid: tuple[int, int, int]) -> Prepared:
  """A step of sampling one clip: from the first time of the config's walk to the second, by Euler, with guidance."""
  model, text = cfg.model, cfg.data.text_tokens
  params = lively(jax.jit(lambda key: transformer.init(key, model))(jax.random.key(0)))
  walk = times.grid(cfg.sample.steps, cfg.sample.shift)[:2]

  rule = classifier_free(2.0)

  def step(params, noise, features):
    # The rows of the conditional pass before those of the unconditional one, whose text is one real token.
    mask = jnp.arange(text)[None] < jnp.array([[text // 4], [1]])

    def velocity(x, t):
      pair = lambda x: jnp.concatenate([x, x])
      t = jnp.full(1, t)
      latents = network_input(x, jnp.zeros_like(x[:, :1]), t, jnp.zeros(1, bool))
      v, _ = transformer.apply(params, model, pair(latents), pair(t), features, text_mask=mask)
      return tuple(jnp.split(v, 2))

    return samplers.integrate(guided(velocity, rule), noise, walk, "euler", memory=rule.start(noise))

  inputs = lambda seed: normals(seed, (1, *grid, model.latent_channels), (2, text, model.text_dim))
  return Prepared(jax.jit(step), [(params, *inputs(i)) for i in range(2)])


def _settings(job, name, bucket, cfg, tokens):
  return {"config": name, "bucket": dataclasses.astuple(bucket), "video tokens": tokens.video, "text": tokens.text,
          "real text": tokens.text // 4, "dtype": cfg.model.dtype, "attention": cfg.model.attention, "config keys": job.changed}
