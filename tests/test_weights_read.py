"""Safetensors into sharded arrays: files of the reference library, by parts, and every fault of a folder in one error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec as P
from safetensors.numpy import save_file

from motif_jax import mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.weights import read
from motif_jax.weights.table import LINEAR, Row, Table, dense, stack, to_theirs

SHAPES = {"embed/kernel": (16, 6), "embed/bias": (6,), "blocks/query/kernel": (3, 8, 4, 2), "blocks/query/bias": (3, 4, 2),
          "blocks/out/kernel": (3, 4, 2, 8), "blocks/down/kernel": (3, 16, 8), "patch/kernel": (24, 8)}
SPECS = {"embed/kernel": P(("fsdp", "sequence")), "blocks/query/kernel": P(None, ("fsdp", "sequence")),
         "blocks/query/bias": P(None, "fsdp"), "blocks/out/kernel": P(None, "fsdp", None, "sequence"),
         "blocks/down/kernel": P(None, "fsdp", "sequence"), "patch/kernel": P("fsdp", "sequence")}


def make_table():
  """Every transform of the transformer's table: heads, two parameters in one tensor, convolutions, stacks that start late."""
  rows = [*dense("net.embed", "embed"), Row("net.patch.weight", "patch/kernel", "o c t y x -> (c t y x) o"),
          *stack("net.blocks.{}.", "blocks/", 3, [
              *dense("query", "query", "(N h) i -> i N h", "(N h) -> N h"),
              Row("out.weight", "out/kernel", "o (N h) -> N h o", slice(None, 8)),
              Row("out.weight", "down/kernel", LINEAR, slice(8, None))], first=2)]
  abstract = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in SHAPES.items()}
  return Table(rows, dict(N=4, h=2, c=3, t=1, y=2, x=4), unflatten_dict(abstract, sep="/"))


TABLE = make_table()


def make_params():
  rng = np.random.default_rng(3)
  return unflatten_dict({path: rng.standard_normal(shape, np.float32) for path, shape in SHAPES.items()}, sep="/")


PARAMS = make_params()


def theirs():
  # Contiguous, because the library writes the memory of a transposed array as it lies.
  return {name: np.ascontiguousarray(value) for name, value in to_theirs(PARAMS, TABLE).items()}


def assert_bits(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.fixture
def folder(tmp_path):
  """Two files without an index."""
  tensors = theirs()
  names = sorted(tensors)
  save_file({name: tensors[name] for name in names[:5]}, tmp_path / "a-1.safetensors", metadata={"format": "pt"})
  save_file({name: tensors[name] for name in names[5:]}, tmp_path / "a-2.safetensors", metadata={"format": "pt"})
  return tmp_path


def test_files_of_the_reference_library_come_back_bit_for_bit(folder):
  assert_bits(read.read_tree(folder, TABLE), PARAMS)


@pytest.mark.parametrize("sizes", [(1, 4, 2), (4, 2, 1), (2, 1, 4)])
def test_each_device_reads_its_part_and_no_part_is_read_twice(folder, monkeypatch, sizes):
  mesh = meshes.make_mesh(MeshConfig(*sizes))
  specs = {path: SPECS.get(path, P()) for path in SHAPES}
  shardings = {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
  copied, copy = [], read.copy_block
  monkeypatch.setattr(read, "copy_block", lambda *args: copied.append(copy(*args)) or copied[-1])
  tree = read.read_tree(folder, TABLE, shardings=unflatten_dict(shardings, sep="/"))
  assert_bits(tree, PARAMS)
  leaves = flatten_dict(tree, sep="/")
  assert all(leaves[path].sharding.is_equivalent_to(sharding, leaves[path].ndim) for path, sharding in shardings.items())
  whole = sum(x.nbytes for x in jax.tree.leaves(PARAMS))
  # The rows of a convolution's input channels lie apart in its kernel: each of the parts along them reads all of them.
  again = (mesh.shape["fsdp"] - 1) * PARAMS["patch"]["kernel"].nbytes
  assert sum(x.nbytes for x in copied) == whole + again
