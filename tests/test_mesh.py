"""Claims about the mesh: sizes, errors that name sizes that work, and what constrain and global_batch do."""

import types

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
import numpy as np
import pytest

from motif_jax import mesh as mesh_lib
from motif_jax.config import MeshConfig


def _mesh(data, fsdp, sequence):
  return mesh_lib.make_mesh(MeshConfig(data, fsdp, sequence))


@pytest.mark.parametrize("asked, got", [
    ((-1, 2, 2), (2, 2, 2)), ((1, -1, 1), (1, 8, 1)), ((2, 1, -1), (2, 1, 4)), ((8, 1, 1), (8, 1, 1))])
def test_minus_one_takes_the_devices_that_are_left(asked, got):
  mesh = _mesh(*asked)
  assert mesh.devices.shape == got
  assert mesh.axis_names == ("data", "fsdp", "sequence")
  assert mesh.axis_types == (AxisType.Auto,) * 3


def test_devices_of_a_model_shard_are_neighbours():
  ids = np.vectorize(lambda d: d.id)(_mesh(2, 2, 2).devices)
  np.testing.assert_array_equal(ids.ravel(), np.arange(8))


@pytest.mark.parametrize("asked, named", [
    ((3, 1, 1), "(8, 1, 1)"), ((-1, 3, 1), "(2, 4, 1)"), ((2, 2, 4), "(2, 2, 2)"), ((4, 1, 1), "(8, 1, 1)")])
def test_impossible_size_names_sizes_that_work(asked, named):
  with pytest.raises(ValueError, match="nearest sizes that work") as error:
    _mesh(*asked)
  assert named in str(error.value) and "there are 8" in str(error.value)


def test_more_devices_are_first_offered_to_data():
  with pytest.raises(ValueError, match=r"sizes that work: \(8, 8, 1\), \(1, 64, 1\), \(1, 8, 8\)"):
    mesh_lib.make_mesh(MeshConfig(1, 8, 1), devices=range(64))


def _devices(nodes, each):
  """Devices of several hosts, a process each, in an order that mixes them."""
  devices = [types.SimpleNamespace(id=10 * node + i, process_index=nodes - node, slice_index=node)
             for i in reversed(range(each)) for node in range(nodes)]
  return devices


def test_fsdp_and_sequence_lie_inside_a_node_and_data_across():
  devices = mesh_lib.by_node(_devices(nodes=3, each=8), (6, 2, 2))
  assert [[d.id for d in group.flat] for group in devices] == [
      [10 * node + 4 * half + i for i in range(4)] for node in range(3) for half in range(2)]
  assert not mesh_lib.crosses_nodes(types.SimpleNamespace(devices=devices))


def test_groups_of_whole_nodes_work_and_are_noticed():
  mesh = types.SimpleNamespace(devices=mesh_lib.by_node(_devices(nodes=4, each=4), (2, 8, 1)))
  assert mesh_lib.crosses_nodes(mesh) and mesh_lib.nodes_of(mesh) == 4


def test_groups_on_parts_of_nodes_are_refused_with_the_nearest_that_fit():
  with pytest.raises(ValueError, match=r"fsdp \* sequence = 6 .* parts of nodes, which have \[4\] devices; .* that fit: 2, 4"):
    mesh_lib.by_node(_devices(nodes=3, each=4), (2, 6, 1))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 1, 8)])
def test_one_process_reads_the_whole_batch(sizes):
  assert mesh_lib.batch_share(_mesh(*sizes)) == (0, 1)


def test_constrain_without_a_mesh_is_the_same_array():
  x = jnp.ones((2, 4, 3))
  assert mesh_lib.constrain(x, "batch", "video", None) is x


def test_constrain_puts_words_on_mesh_axes():
  with jax.set_mesh(_mesh(2, 2, 2)):
    y = jax.jit(lambda x: mesh_lib.constrain(x, "batch", "video", None))(jnp.ones((4, 6, 3)))
  assert y.sharding.spec == P(("data", "fsdp"), "sequence")
  assert y.addressable_shards[0].data.shape == (1, 3, 3)


def test_constrain_says_which_dimension_does_not_divide():
  with jax.set_mesh(_mesh(2, 2, 2)), pytest.raises(ValueError, match="video dimension of shape .* is 7"):
    jax.jit(lambda x: mesh_lib.constrain(x, "batch", "video", None))(jnp.ones((4, 7, 3)))


def test_global_batch_deals_rows_over_data_and_fsdp_and_repeats_them_over_sequence():
  host = {"latents": np.arange(8 * 3, dtype=np.float32).reshape(8, 3), "text_mask": np.ones((8, 5), bool)}
  batch = mesh_lib.global_batch(_mesh(2, 2, 2), host)
  np.testing.assert_array_equal(batch["latents"], host["latents"])
  assert batch["text_mask"].dtype == bool
  rows = [shard.index[0].start or 0 for shard in batch["latents"].addressable_shards]
  assert sorted(rows) == [0, 0, 2, 2, 4, 4, 6, 6]


def test_batch_size_that_cannot_be_dealt_names_the_nearest():
  mesh_lib.check_batch_size(_mesh(2, 2, 2), 12)
  with pytest.raises(ValueError, match="nearest sizes that do: 8, 12"):
    mesh_lib.check_batch_size(_mesh(2, 2, 2), 10)
