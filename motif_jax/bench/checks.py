"""Right before fast: every attention backend against the plain formula in float32, and a small training step against the CPU's.

Errors are ‖got - want‖ / ‖want‖ on random data.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from motif_jax.bench import steps
from motif_jax.bench.case import Case, Job, lively, normals
from motif_jax.config import MeshConfig
from motif_jax.mesh import batch_sharding, make_mesh
from motif_jax.model.attention import BACKENDS
from motif_jax.train import step as training
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import init_state

LENGTHS = (333, 301)  # queries and keys: odd, and not alike
REAL = (301, 77)  # keys of each sample that are no padding
LIMITS = {"bfloat16": 2e-2, "float32": 1e-4}  # of one rounding of operands, and of sums in another order
STEP_LIMIT = 1e-4


def cases(job: Job) -> list[Case]:
  """One of each backend, and the step."""
  head_dim = job.load(job.sizes.config).model.head_dim
  of_backend = lambda name: Case(f"check/attention {name}", {"lengths": LENGTHS, "real": REAL, "dtype": job.sizes.dtype},
                                 measure=lambda: attention_errors(name, head_dim, job.sizes.dtype))
  return [*map(of_backend, job.sizes.backends), Case("check/step", {"config": "smoke"}, measure=lambda: step_errors(job))]


def attention_errors(backend: str, head_dim: int, dtype: str) -> dict:
  """Errors of the output and of the three gradients, with the last keys masked; ValueError if one is too large."""
  mask = jnp.arange(LENGTHS[1])[None] < jnp.array(REAL)[:, None]
  shape = lambda length: (2, length, 3, head_dim)
  q, k, v, cotangent = normals(0, shape(LENGTHS[0]), shape(LENGTHS[1]), shape(LENGTHS[1]), shape(LENGTHS[0]), dtype=dtype)

  def run(backend, *arrays):
    out, pull = jax.vjp(lambda q, k, v: BACKENDS[backend](q, k, v, mask), *arrays[:3])
    return out, *pull(arrays[3])

  with jax.default_matmul_precision("highest"):
    got = jax.jit(run, static_argnums=0)(backend, q, k, v, cotangent)
    want = jax.jit(run, static_argnums=0)("xla", *(x.astype("float32") for x in (q, k, v, cotangent)))
  return _judged(dict(zip(("output", "to q", "to k", "to v"), zip(got, want))), LIMITS[dtype])


def step_errors(job: Job) -> dict:
  """Errors of one routed and aligned step of the smoke config: losses, gradient norm, and the optimizer's state after it.

  That state is linear in the gradients, or quadratic; the parameters themselves moved by about the sign of theirs.
  """
  cfg = job.load("smoke")
  cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype="float32", attention="chunked"), seed=3,
                            optimizer=dataclasses.replace(cfg.optimizer, kind="adamw"),
                            data=dataclasses.replace(cfg.data, batch_size=4))
  with jax.default_matmul_precision("highest"):
    try:
      want = _one_step(cfg, jax.devices("cpu")[0])
    except RuntimeError as e:
      raise ValueError(f"jax has no CPU to compare with ({e}); set JAX_PLATFORMS=cuda,cpu.") from e
    return _judged({name: (x, want[name]) for name, x in _one_step(cfg, jax.devices()[0]).items()}, STEP_LIMIT)


def _one_step(cfg, device) -> dict:
  """Name -> array, of what a step on `device` measured and left behind."""
  mesh = make_mesh(MeshConfig(1, 1, 1), devices=[device])
  optimizer = make_optimizer(cfg.optimizer, steps=cfg.train.steps)
  with jax.default_device(device):
    state = init_state(jax.random.key(0), cfg, mesh, optimizer)
    state = state.replace(params=lively(state.params))
    batch = jax.tree.map(lambda x: jax.device_put(x, batch_sharding(mesh)), steps.batch_of(cfg, (3, 4, 4), seed=0))
    run = training.make_train_step(cfg, mesh, optimizer, plan=training.plan_at(cfg, 0))
    state, measured = run(state, batch)
  moments = [np.ravel(x) for x in jax.tree.leaves(jax.device_get(state.opt_state)) if np.ndim(x)]
  measured = {name: measured[name] for name in ("loss", "alignment", "gradient_norm")}
  return jax.device_get(measured) | {"moments": np.concatenate(moments)}


def _judged(pairs, limit) -> dict:
  errors = {name: _error(np.asarray(got, np.float64), np.asarray(want, np.float64)) for name, (got, want) in pairs.items()}
  wrong = [f"{name} {error:.3g}" for name, error in errors.items() if not error <= limit]
  if wrong:
    raise ValueError(f"errors above {limit:g}: {', '.join(wrong)}; all: {errors}")
  return {"errors": errors, "limit": limit}


def _error(got, want):
  return float(np.linalg.norm(got - want) / np.linalg.norm(want))
