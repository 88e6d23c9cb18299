"""Low-rank adapters: what they add, where they hang, and their files."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from motif_jax.config import CrossAttentionConfig, Depths
from motif_jax.model import lora, transformer
from motif_jax.model.layers import Linear
from motif_jax.weights import lora as files
from tests import tiny
from tests.sensitive import sensitive

CFG = dataclasses.replace(tiny.make_config().model, depths=Depths(1, 2, 1), cross_attention=CrossAttentionConfig("shared", "none", False))
TARGETS = ("dual/*/attention/*", "single/*", "decoder/attention/out", "text_embed/*", "output/modulation")


@pytest.fixture(scope="module")
def base():
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, CFG), jax.random.key(0)), 0)


@pytest.fixture(scope="module")
def adapter():
  made = lora.init(jax.random.key(1), CFG, rank=3, targets=TARGETS)
  return jax.tree.map(lambda x: 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), made)


@jax.jit
def velocity(params):
  rng = np.random.default_rng(2)
  normal = lambda *shape: rng.standard_normal((2, *shape)).astype(np.float32)
  return transformer.apply(params, CFG, normal(2, 4, 4, 7), jnp.asarray([0.2, 0.7]), normal(5, 12))[0]


def error(got, want):
  return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


def test_a_new_adapter_changes_nothing(base):
  new = lora.init(jax.random.key(3), CFG, rank=2, targets=("*",))
  assert len(flatten_dict(new)) == 2 * len(lora.kernels(CFG)) > 40
  np.testing.assert_array_equal(velocity(lora.attach(base, new, scale=8.0)), velocity(base))


def test_merged_is_unmerged(base, adapter):
  want = velocity(lora.attach(base, adapter, scale=0.6))
  assert error(velocity(lora.merge(base, adapter, CFG, scale=0.6)), want) < 2e-6
  assert error(velocity(base), want) > 0.1


@pytest.mark.parametrize("layout", ["legacy", "legacy_attn", "diffusers"])
def test_a_file_brings_back_what_was_written(tmp_path, base, adapter, layout):
  said = dict(rank=3, base="abc")
  files.write(tmp_path / "a.safetensors", adapter, CFG, scale=0.5, layout=layout, said=said)
  read = files.read_adapter(tmp_path / "a.safetensors", CFG)
  assert read.said == said
  halved = {path: leaf / 2 if path.endswith("/up") else leaf for path, leaf in flatten_dict(adapter, sep="/").items()}
  got = flatten_dict(read.tree, sep="/")
  # Parts of one layer of theirs share its B: attention and MLP come back as they were, for every rank has one part's inputs alone.
  chex.assert_trees_all_close(dict(sorted(got.items())), dict(sorted(halved.items())), rtol=1e-6)


@pytest.mark.parametrize("axes, out", [(1, (3, 5)), (2, 7)])
def test_the_gradient_of_a_factor_is_that_of_the_kernel_through_it(axes, out):
  """d/dup of f(W + down up) is down' dW, and d/ddown is dW up': into heads and out of them."""
  layer = Linear(out, "float32", axes=axes)
  x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3)[:2 + axes])
  params = layer.init(jax.random.key(1), x)["params"]
  inputs, outputs = params["kernel"].shape[:axes], params["kernel"].shape[axes:]
  factors = {"down": jax.random.normal(jax.random.key(2), (*inputs, 2)), "up": jax.random.normal(jax.random.key(3), (2, *outputs))}
  loss = lambda params: jnp.sum(jnp.sin(layer.apply({"params": params}, x)))
  got = jax.grad(lambda factors: loss(params | {"adapter": factors}))(factors)
  kernel = jax.grad(loss)(params | {"kernel": params["kernel"] + jnp.tensordot(factors["down"], factors["up"], 1)})["kernel"]
  inside, outside = list(range(axes)), list(range(axes, kernel.ndim))
  assert error(got["up"], jnp.tensordot(factors["down"], kernel, (inside, inside))) < 1e-5
  want = jnp.tensordot(kernel, factors["up"], (outside, list(range(1, 1 + len(outputs)))))
  assert error(got["down"], want) < 1e-5


def test_targets_that_match_nothing_are_named():
  with pytest.raises(ValueError, match=r"'dual/cross/\*' match no kernel.*decoder/attention/key"):
    lora.init(jax.random.key(0), CFG, rank=2, targets=("single/*", "dual/cross/*"))


def test_a_rank_larger_than_a_matrix_is_refused():
  with pytest.raises(ValueError, match=r"rank is 13, expected 1 to 12: text_embed/up is 12 x 16"):
    lora.init(jax.random.key(0), CFG, rank=13, targets=("text_embed/*",))


def test_an_adapter_of_another_network_is_refused(tmp_path, base, adapter):
  files.write(tmp_path / "a.safetensors", adapter, CFG, scale=1.0)
  wider = dataclasses.replace(CFG, width=32, heads=4)
  with pytest.raises(ValueError, match=r"another network, 28 of its 28 .*linear_1 is \(3, 12\) and \(16, 3\), expected \(r, 12\)"):
    files.read_adapter(tmp_path / "a.safetensors", wider)
  shallow = dataclasses.replace(CFG, depths=dataclasses.replace(CFG.depths, decoder=0))
  with pytest.raises(ValueError, match="1 of its 28 layers.*single_transformer_blocks.2.proj_out is no linear layer"):
    files.read_adapter(tmp_path / "a.safetensors", shallow)


def test_a_file_of_something_else_is_refused(tmp_path):
  from safetensors.numpy import save_file
  save_file({"transformer.proj_out.lora_A.weight": np.ones((2, 3), np.float32)}, tmp_path / "half.safetensors")
  with pytest.raises(ValueError, match="without the other half: proj_out|proj_out without the other half"):
    files.read_adapter(tmp_path / "half.safetensors", CFG)
  save_file({"proj_out.weight": np.ones((2, 3), np.float32)}, tmp_path / "whole.safetensors")
  with pytest.raises(ValueError, match="no LoRA adapter.*there are proj_out.weight"):
    files.read_adapter(tmp_path / "whole.safetensors", CFG)


def test_a_new_adapter_is_drawn_by_the_inputs_of_each_kernel_and_for_each_alone():
  leaves = flatten_dict(lora.init(jax.random.key(3), CFG, rank=4, targets=("*",)), sep="/")
  downs = {path: np.asarray(leaf) for path, leaf in leaves.items() if path.endswith("/down")}
  for path, down in downs.items():
    inputs = lora.kernels(CFG)[path.removesuffix(f"{lora.NAME}/down") + "kernel"][1]
    assert 0.8 < np.abs(down).max() * np.sqrt(inputs) <= 1, path
  assert len({down.ravel()[:8].tobytes() for down in downs.values()}) == len(downs)


def test_the_scale_counts_once_and_merging_keeps_the_dtype(base, adapter):
  hung, own = (flatten_dict(tree, sep="/") for tree in (lora.attach(base, adapter, scale=0.6), adapter))
  for path, leaf in own.items():
    np.testing.assert_array_equal(hung[path], leaf * 0.6 if path.endswith("/up") else leaf)
  half = lora.frozen(base, "bfloat16")
  chex.assert_trees_all_equal_dtypes(lora.merge(half, adapter, CFG, scale=0.6), half)
