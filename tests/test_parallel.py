"""Claims about eight devices: every mesh computes what one device does, and puts each array where the table says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax import mesh as meshes, sharding
from motif_jax.config import AlignmentConfig, MeshConfig
from motif_jax.model import alignment, routing, sequence, transformer
from motif_jax.model.plan import make_plan
from tests import tiny
from tests.sensitive import sensitive

B, GRID, GROUPS = 8, (6, 4, 8), 24  # 6 x 2 x 4 = 48 video tokens: two in each group, whole groups on 2, 4, 6 or 8 devices
HEADS = 12
ALIGNMENT = AlignmentConfig(teacher="gradients", teacher_dim=6, tap=3, hidden=20, weight=0.5, last_step=0)
RATE = 0.1


def _config(**changes):
  c = tiny.config_dict()
  c.model.update(dict(width=96, heads=HEADS, rope_axes=(4, 2, 2), image_dim=10, remat="block", **changes))
  return dataclasses.replace(tiny.config.from_config_dict(c).model)


def _inputs(cfg):
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal((B, *shape), np.float32)
  return {
      "latents": normal(*GRID, 2 * cfg.latent_channels + 1), "t": rng.uniform(size=B).astype(np.float32), "text": normal(5, cfg.text_dim),
      "text_mask": np.arange(5)[None] < rng.integers(1, 6, (B, 1)), "image": normal(3, cfg.image_dim),
      "target": normal(*GRID, cfg.latent_channels), "teacher": normal(6, 3, 5, 6),
  }


def _params(cfg):
  abstract = jax.eval_shape(lambda key: {"model": transformer.init(key, cfg), "projector": alignment.init_projector(key, ALIGNMENT, cfg.width)},
                            jax.random.key(0))
  return {"model": sensitive(abstract["model"], 0), "projector": sensitive(abstract["projector"], 1)}


def _step(cfg):
  """(params, inputs) -> (loss, gradients, params after a step of SGD): routed over the dual/single border, tapped inside."""
  plan = make_plan(cfg.depths, (1, 3), ALIGNMENT.tap)

  def loss(params, x):
    route = routing.draw(jax.random.key(1), B, 48, keep=0.5, groups=GROUPS, policy="random")
    velocity, aux = transformer.apply(params["model"], cfg, x["latents"], x["t"], x["text"], text_mask=x["text_mask"], image=x["image"],
                                      plan=plan, route=route)
    aligned = alignment.alignment_loss(params["projector"], ALIGNMENT, aux.tapped, x["teacher"], (6, 2, 4), route)
    return jnp.mean(jnp.square(velocity - x["target"])) + jnp.mean(aligned)

  def step(params, x):
    value, gradients = jax.value_and_grad(loss)(params, x)
    return value, gradients, jax.tree.map(lambda p, g: p - RATE * g, params, gradients)

  return step


def _on(sizes, cfg):
  """What `_step` gives on a mesh of these sizes, pinned to the table's shardings, and these shardings."""
  mesh = meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))])
  params = _params(cfg)
  shardings = sharding.parameter_shardings(params, mesh)
  step = jax.jit(_step(cfg), out_shardings=(None, shardings, shardings))
  with jax.set_mesh(mesh):
    return step(jax.device_put(params, shardings), meshes.global_batch(mesh, _inputs(cfg))), shardings


@pytest.fixture(scope="module")
def alone():
  return _on((1, 1, 1), _config())[0]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4), (1, 1, 6)])
def test_a_step_on_any_mesh_is_that_of_one_device(alone, sizes):
  (loss, gradients, after), shardings = _on(sizes, _config())
  np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
  for name, got, want in (("gradient", gradients, alone[1]), ("parameter", after, alone[2])):
    for (path, a), (_, b) in zip(sharding.paths_of(got), sharding.paths_of(want)):
      error = np.linalg.norm(np.asarray(a) - np.asarray(b)) / max(np.linalg.norm(b), 1e-6)
      assert error < 2e-5, f"{name} of {path} is off by {error:.1e} on {sizes}"
  where = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), after, shardings)
  assert all(jax.tree.leaves(where))


@pytest.mark.parametrize("devices, heads, expected", [
    (1, 12, (1, 1)), (2, 12, (2, 1)), (4, 12, (4, 1)), (5, 12, (1, 5)), (6, 12, (6, 1)), (8, 12, (4, 2)), (16, 12, (4, 4)), (8, 8, (8, 1)),
])
def test_heads_are_dealt_before_keys_are_gathered(devices, heads, expected):
  assert sequence.degrees(devices, heads) == expected
