"""Shared Cross-Attention, which diffusers dropped, against an oracle written from model.md section 2, in float32."""

import dataclasses

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from motif_jax import config
from tests.parity import cases, reference


@pytest.mark.parametrize("query_norm", ["none", "scale", "scale_bias"])
def test_shared_cross_attention_is_the_oracle(query_norm):
  """Velocity and all gradients, with image tokens, which stay out of the cross-attention, and a ragged mask."""
  cfg = dataclasses.replace(cases.TINY, depths=config.Depths(0, 2, 1), image_dim=24,
                            cross_attention=config.CrossAttentionConfig("shared", query_norm, False))
  given = cases.inputs(cfg, image=5)
  params = cases.parameters(cfg)
  want = reference.run(reference.build(cfg, cases.weights(params, cfg)), given, cases.cotangent(cfg, given))
  cases.assert_equal(cases.ours(params, cfg, given), want)


@pytest.mark.parametrize("mask", ["ragged mask", "no mask"])
def test_the_oracle_is_the_reference_where_their_weights_are_copies(mask):
  """Without query LayerNorm, the shared layout is the separate one with the self-attention's keys, values and norms copied."""
  shared = dataclasses.replace(cases.TINY, image_dim=24, cross_attention=config.CrossAttentionConfig("shared", "none", False))
  separate = dataclasses.replace(shared, cross_attention=cases.SEPARATE)
  given = cases.inputs(shared, image=5, padded=(0, 3) if mask == "ragged mask" else None)
  weights = cases.weights(cases.parameters(shared), shared)
  copies = {}
  for name, value in weights.items():
    block, dot, rest = name.partition(".cross_attn_")
    copies[f"{block}.cross_attn.{RENAMED[rest]}" if dot else name] = value
  for layer in range(shared.depths.single):
    block = f"single_transformer_blocks.{layer}"
    for leaf in ("to_k.weight", "to_k.bias", "to_v.weight", "to_v.bias", "norm_q.weight", "norm_k.weight"):
      copies[f"{block}.cross_attn.{leaf}"] = weights[f"{block}.attn.{leaf}"]

  run = lambda cfg, weights: reference.run(
      reference.build(cfg, weights), given, cases.cotangent(cfg, given), by_parameter=False)
  cases.assert_equal(run(shared, weights), run(separate, copies))


RENAMED = {"query_proj.weight": "to_q.weight", "query_proj.bias": "to_q.bias",
           "out_proj.weight": "to_out.0.weight", "out_proj.bias": "to_out.0.bias"}
