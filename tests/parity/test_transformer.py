"""Our transformer is diffusers 0.42.1's: velocity, and gradients by every parameter and input, in float32."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import jax

from configs import base
from motif_jax import config
from motif_jax.model import routing
from tests.parity import cases, reference

IMAGE = dict(image_dim=24)
CASES = {  # name -> (what differs in the model, what differs in the inputs)
    "ragged mask": ({}, {}),
    "no mask, one tall frame": ({}, dict(padded=None, grid=(1, 12, 4))),
    "image tokens, no mask, patches of two frames": (
        IMAGE | dict(patch=(2, 2, 2)), dict(image=5, padded=None, grid=(4, 8, 12))),
    "no decoder": (dict(depths=config.Depths(2, 2, 0)), {}),
    "no dual blocks, no cross-attention": (
        dict(depths=config.Depths(0, 2, 1), cross_attention=config.CrossAttentionConfig("none", "none", False)), {}),
    "image tokens, cross-attention in dual blocks too": (
        IMAGE | dict(cross_attention=config.CrossAttentionConfig("separate", "none", True)), dict(image=5)),
}


def compare(cfg, given, *, params=None, zero=(), by_parameter=True):
  """Both models agree on everything, under the same parameters, sensitive ones if none are given."""
  params = params or cases.parameters(cfg)
  model = reference.build(cfg, cases.weights(params, cfg))
  want = reference.run(model, given, cases.cotangent(cfg, given), by_parameter=by_parameter)
  cases.assert_equal(cases.ours(params, cfg, given, by_parameter=by_parameter), want, zero=zero)


@pytest.mark.parametrize("case", CASES)
def test_velocity_and_all_gradients_are_the_reference(case):
  model, inputs = CASES[case]
  cfg = dataclasses.replace(cases.TINY, **model)
  compare(cfg, cases.inputs(cfg, **inputs))


def test_what_nobody_reads_gets_no_gradient():
  """Without single-stream blocks nobody reads the last dual block's text, and without image tokens the image embedder."""
  cfg = dataclasses.replace(cases.TINY, depths=config.Depths(1, 0, 1), **IMAGE)
  dense = [f"image_embedder.{layer}" for layer in ("norm_in", "norm_out", "linear_1", "linear_2")]
  dense += [f"transformer_blocks.0.{layer}" for layer in (
      "attn.add_q_proj", "attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")]
  zero = [f"{layer}.{leaf}" for layer in dense for leaf in ("weight", "bias")] + ["transformer_blocks.0.attn.norm_added_q.weight"]
  compare(cfg, cases.inputs(cfg), zero=tuple(zero))


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_small_activations_are_normalised_as_in_the_reference(kind):
  """With variances of 1e-4 in front of the norms, each epsilon moves the velocity."""
  query_norm = "scale_bias" if kind == "shared" else "none"
  cfg = dataclasses.replace(cases.TINY, depths=config.Depths(1, 1, 0), **IMAGE,
                            cross_attention=config.CrossAttentionConfig(kind, query_norm, False))
  given = cases.inputs(cfg, image=5)
  compare(cfg, given._replace(image=0.01 * given.image), params=jax.tree_util.tree_map_with_path(shrunk, cases.parameters(cfg)))


def shrunk(path, leaf):
  """The leaf, times 0.01 where it is a kernel or bias of the video or image embedder, of queries or of keys."""
  parts = [key.key for key in path]
  return 0.01 * leaf if {"video_embed", "image_embed", "query", "key"} & set(parts) and "scale" not in parts else leaf


def test_released_width_is_the_reference():
  """12 heads of 128, one block of each kind, 192 tokens; gradients by input only, which takes a third of the memory."""
  cfg = dataclasses.replace(config.from_config_dict(base.get_config()).model, depths=config.Depths(1, 1, 1), dtype="float32",
                            cross_attention=cases.SEPARATE)
  compare(cfg, cases.inputs(cfg, grid=(3, 16, 16), image=5), by_parameter=False)


def test_routed_blocks_are_the_reference_around_a_gather():
  """model.md section 4: over the dual/single border, with text mask and image tokens, another route in each sample."""
  cfg = dataclasses.replace(cases.TINY, **IMAGE)
  given = cases.inputs(cfg, image=5)
  length, groups = 3 * 4 * 6, 4
  order = np.random.default_rng(5).permuted(np.tile(np.arange(length // groups), (2, groups, 1)), axis=-1)
  kept, bypass = np.sort(order[..., :7]), np.sort(order[..., 7:])
  everywhere = (kept + np.arange(groups)[:, None] * (length // groups)).reshape(2, -1)

  params = cases.parameters(cfg)
  model = reference.build(cfg, cases.weights(params, cfg))
  want = reference.run(model, given, cases.cotangent(cfg, given), routed=(everywhere, 1, 3))
  cases.assert_equal(cases.ours(params, cfg, given, span=(1, 3), route=routing.from_ids(kept, bypass)), want)


def test_the_reference_feels_its_conditions():
  """Else agreement would prove little: each condition moves the velocity by over 100 times the tolerance."""
  cfg = dataclasses.replace(cases.TINY, **IMAGE)
  given = cases.inputs(cfg, image=5)
  weights = cases.weights(cases.parameters(cfg), cfg)
  blind = {name: 0 * value if "cross_attn.to_out" in name else value for name, value in weights.items()}
  velocity = lambda given, weights: reference.run(
      reference.build(cfg, weights), given, cases.cotangent(cfg, given), by_parameter=False)["velocity"]
  changed = {
      "mask": (given._replace(mask=None), weights), "image": (given._replace(image=given.image[::-1]), weights),
      "text": (given._replace(text=given.text[::-1]), weights), "t": (given._replace(t=given.t + np.float32(0.005)), weights),
      "cross-attention": (given, blind)}
  want = velocity(given, weights)
  moved = {name: cases.error(velocity(*change), want) for name, change in changed.items()}
  assert min(moved.values()) > 100 * cases.TOLERANCE, moved
