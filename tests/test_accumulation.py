"""Claims about gradient accumulation: less memory, the same step."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from motif_jax import config, mesh as meshes, sharding
from motif_jax.config import MeshConfig
from motif_jax.train.state import TrainState, abstract_state
from motif_jax.train.step import make_train_step, microbatches, plan_at
from tests import tiny
from tests.sensitive import sensitive

SGD = optax.sgd(0.1, momentum=0.9)  # after one step the momentum is the gradient


def _config(accumulate):
  c = tiny.config_dict()
  c.model.depths = dict(dual=1, single=2, decoder=1)
  c.route.stop, c.alignment.tap, c.train.accumulate = 3, 2, accumulate
  return config.from_config_dict(c)


def _mesh(*sizes):
  return meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))])


@functools.cache
def _one_step(accumulate, *sizes):
  """The state after a step, what it measured, and the bytes it used beyond its arguments."""
  cfg, mesh = _config(accumulate), _mesh(*sizes)
  abstract = abstract_state(cfg, SGD)
  shardings = sharding.state_shardings(abstract, mesh)
  params = sensitive(abstract.params, seed=0)
  momentum = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract.opt_state)
  state = TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=jax.tree.map(jnp.copy, params["model"]), opt_state=momentum)
  state, batch = jax.device_put(state, shardings), meshes.global_batch(mesh, tiny.batch(cfg))
  step = make_train_step(cfg, mesh, SGD, plan=plan_at(cfg, 0))
  with jax.set_mesh(mesh):
    compiled = step.jitted.lower(state, batch).compile()
    new, measured = compiled(state, batch)
  assert all(x.is_deleted() for x in jax.tree.leaves(state))  # donated
  assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), new, shardings)))
  return jax.device_get(new), jax.device_get(measured), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("accumulate, sizes", [(4, (1, 1, 1)), (2, (2, 2, 2)), (4, (1, 2, 4))])
def test_microbatches_change_neither_loss_nor_gradients_nor_state(accumulate, sizes):
  state, measured, _ = _one_step(accumulate, *sizes)
  expected, expected_measured, _ = _one_step(1, 1, 1, 1)
  for name in ("t", "loss", "alignment"):  # per sample, so the order of the rows is tested too
    np.testing.assert_allclose(measured[name], expected_measured[name], rtol=1e-5, err_msg=name)
  for (path, x), (_, y) in zip(sharding.paths_of(state), sharding.paths_of(expected)):
    assert np.linalg.norm(y) > 0, f"{path} is zero, so the test is blind to it"
    assert np.linalg.norm(x - y) <= 2e-5 * np.linalg.norm(y), path


def test_activations_take_the_memory_of_one_microbatch():
  assert _one_step(4, 1, 1, 1)[2] < 0.6 * _one_step(1, 1, 1, 1)[2]


def test_cutting_a_batch_moves_no_row_to_another_device():
  mesh, count = _mesh(2, 2, 2), 3
  rows = np.arange(24 * 5).reshape(24, 5)
  with jax.set_mesh(mesh):
    cut = jax.jit(lambda x: microbatches(x, count)).lower(meshes.global_batch(mesh, rows)).compile()
  assert not re.findall(r"all-to-all|all-gather|all-reduce|collective-permute", cut.as_text())
  out = cut(meshes.global_batch(mesh, rows))
  np.testing.assert_array_equal(out, [rows[i::count] for i in range(count)])
  assert {shard.data.shape for shard in out.addressable_shards} == {(3, 2, 5)}


def test_a_batch_that_cannot_be_cut_names_the_nearest_sizes():
  meshes.check_batch_size(_mesh(2, 2, 2), 24, accumulate=3)
  with pytest.raises(ValueError, match=r"data \* fsdp \* train.accumulate = 12; the nearest sizes that do: 12, 24"):
    meshes.check_batch_size(_mesh(2, 2, 2), 16, accumulate=3)
