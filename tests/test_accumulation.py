"""Claims about gradient accumulation: less memory, the same step."""

import functools
import re

import jax
import numpy as np
import pytest

from motif_jax import mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.train.step import microbatches
from tests import one_step


def _mesh(*sizes):
  return meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))])


@functools.cache
def _one_step(accumulate, *sizes):
  return one_step.run(_mesh(*sizes), accumulate=accumulate)


@pytest.mark.parametrize("accumulate, sizes", [(4, (1, 1, 1)), (2, (2, 2, 2)), (4, (1, 2, 4))], ids=str)
def test_microbatches_change_neither_loss_nor_gradients_nor_state(accumulate, sizes):
  one_step.assert_same(_one_step(accumulate, *sizes), _one_step(1, 1, 1, 1))


def test_activations_take_the_memory_of_one_microbatch():
  assert _one_step(4, 1, 1, 1)[2] < 0.7 * _one_step(1, 1, 1, 1)[2]  # of so small a model the sum of the gradients is half


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
