"""An adapter of ours changes diffusers' model exactly as it changes ours, through the file, with PEFT reading and writing it."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import jax
import torch
from diffusers.utils import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from peft import LoraConfig

from motif_jax import config
from motif_jax.model import lora
from motif_jax.weights import lora as files
from tests.parity import cases, reference

logging.set_verbosity_error()
EVERY = ("*",)  # every linear layer: embedders, modulations, attention, MLPs, output
CFG = dataclasses.replace(cases.TINY, depths=config.Depths(1, 2, 1))


def random_adapter(cfg, rank=3, targets=EVERY):
  """An adapter whose two factors are both far from zero."""
  rng = np.random.default_rng(5)
  made = flatten_dict(lora.init(jax.random.key(1), cfg, rank=rank, targets=targets), sep="/")
  return unflatten_dict({path: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in made.items()}, sep="/")


def velocity_of(model, given):
  with torch.no_grad():
    return reference.run(model, given, cases.cotangent(CFG, given), by_parameter=False)["velocity"]


@pytest.fixture(scope="module")
def given():
  return cases.inputs(CFG)


def test_an_adapter_of_ours_does_in_diffusers_what_it_does_here(tmp_path, given):
  params, adapter, scale = cases.parameters(CFG), random_adapter(CFG), 0.7
  files.write(tmp_path / "adapter.safetensors", adapter, CFG, scale=scale)
  model = reference.build(CFG, cases.weights(params, CFG))
  model.load_lora_adapter(str(tmp_path), weight_name="adapter.safetensors", prefix="transformer")
  want = reference.run(model, given, cases.cotangent(CFG, given), by_parameter=False)
  got = cases.ours(lora.attach(params, adapter, scale=scale), CFG, given, by_parameter=False)
  cases.assert_equal(got, want)
  plain = cases.ours(params, CFG, given, by_parameter=False)
  assert cases.error(plain["velocity"], want["velocity"]) > 0.1  # the adapter does something


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_peft_does_here_what_it_does_in_diffusers(tmp_path, given, rslora):
  """Written by diffusers, for some modules alone, with ranks and alphas that differ between them."""
  params = cases.parameters(CFG)
  model = reference.build(CFG, cases.weights(params, CFG))
  model.add_adapter(LoraConfig(
      r=4, lora_alpha=6, use_rslora=rslora, target_modules=["to_q", "to_out.0", "proj_out", "proj_mlp", "norm1.linear"],
      rank_pattern={"single_transformer_blocks.1.attn.to_q": 2}, alpha_pattern={"proj_mlp": 5}, init_lora_weights=False))
  model.save_lora_adapter(str(tmp_path))
  read = files.read_adapter(tmp_path, CFG)
  want = reference.run(model, given, cases.cotangent(CFG, given), by_parameter=False)
  cases.assert_equal(cases.ours(lora.attach(params, read.tree, scale=1.0), CFG, given, by_parameter=False), want)
