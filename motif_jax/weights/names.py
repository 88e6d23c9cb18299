"""The transformer's table: checkpoint names and our parameter paths.

Three layouts share all but the cross-attention of the single-stream blocks (model.md sections 1.10 and 2), there below
`single_transformer_blocks.N.`:
  diffusers    `cross_attn.*` with keys, values and QK norms; kind "separate", or "shared" where they equal the self-attention's
  legacy       `cross_attn_{query_proj,query_norm,out_proj}` and nothing else; kind "shared"
  legacy_attn  the same below `attn.`, as diffusers had it for some weeks
"""

from collections.abc import Mapping
import functools

import jax
import numpy as np

from motif_jax.config import ModelConfig
from motif_jax.model import transformer
from motif_jax.weights import table as tables
from motif_jax.weights.table import LINEAR, Row, SAME, Table, dense, norm, stack

# Transforms beside those of the engine.  N heads of h features.
TO_HEADS = "(N h) i -> i N h"
HEADS_BIAS = "(N h) -> N h"
FROM_HEADS = "o (N h) -> N h o"
PATCH = "o c t y x -> (c t y x) o"  # Conv3d with stride = kernel, as a dense layer over (channel, time, height, width)


LAYOUTS = ("diffusers", "legacy", "legacy_attn")


@functools.lru_cache(maxsize=8)  # a second of tracing for the released size
def table(cfg: ModelConfig, layout: str | None = None) -> Table:
  """Every parameter of the model, beside its name in a layout; by default legacy for "shared" and diffusers for "separate"."""
  layout = layout or ("legacy" if cfg.cross_attention.kind == "shared" else "diffusers")
  check_layout(cfg, layout)
  sizes = dict(zip("Nhctyx", (cfg.heads, cfg.head_dim, 2 * cfg.latent_channels + 1, *cfg.patch)))
  abstract = jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0))
  copied = cfg.cross_attention.kind == "shared" and layout == "diffusers"
  copies = stack("single_transformer_blocks.{}.", "single/", cfg.depths.single, _copies()) if copied else []
  return Table(_rows(cfg, layout), sizes, abstract, copies)


def layouts(cfg: ModelConfig) -> list[str]:
  """The layouts that have a place for every parameter of the model."""
  return [layout for layout in LAYOUTS if not _no_place(cfg, layout)]


def check_layout(cfg: ModelConfig, layout: str) -> None:
  """Raises ValueError unless the layout has a place for every parameter of the model."""
  if layout not in LAYOUTS:
    raise ValueError(f"the layout is {layout!r}, expected one of {', '.join(LAYOUTS)}.")
  if said := _no_place(cfg, layout):
    raise ValueError(said)


def _no_place(cfg, layout) -> str:
  """Why the layout cannot hold the model; empty where it can."""
  cross = cfg.cross_attention
  if cross.kind == "separate" and layout != "diffusers":
    return f"the {layout} layout has no place for the keys and values of a separate cross-attention; write diffusers."
  if cross.kind == "shared" and layout == "diffusers" and cross.query_norm != "none":
    return ("the diffusers layout has no place for a query LayerNorm; fold it first (motif_jax/weights/fold.py), or write the "
            "legacy layout.")
  return ""


def to_ours(theirs: Mapping[str, np.ndarray], cfg: ModelConfig) -> dict:
  """Our parameter tree, of numpy arrays, from their flat dict.  ValueError lists all that is missing, unused or misshaped."""
  return tables.to_ours(theirs, table(cfg))


def to_theirs(tree: Mapping, cfg: ModelConfig) -> dict:
  """Their flat dict from our parameter tree, or from anything of its structure: gradients, traced arrays."""
  return tables.to_theirs(tree, table(cfg))


def our_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter of the model, at no cost in memory."""
  return tables.our_shapes(table(cfg))


def their_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor of their checkpoint, at no cost in memory."""
  return tables.their_shapes(table(cfg))


def _rows(cfg, layout):
  rows = [*dense("x_embedder.proj", "video_embed", PATCH),
          *_mlp("context_embedder.linear_1", "context_embedder.linear_2", "text_embed"),
          *_mlp("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2", "time_embed"),
          *dense("norm_out.linear", "output/modulation"), *dense("proj_out", "output/proj")]
  if cfg.image_dim:
    rows += [*norm("image_embedder.norm_in", "image_embed/norm_in"), *norm("image_embedder.norm_out", "image_embed/norm_out"),
             *_mlp("image_embedder.linear_1", "image_embedder.linear_2", "image_embed")]
  depths = cfg.depths
  rows += stack("transformer_blocks.{}.", "dual/", depths.dual, _dual_block(cfg))
  rows += stack("single_transformer_blocks.{}.", "single/", depths.single, [*_single_block(cfg), *_single_cross(cfg, layout)])
  rows += stack("single_transformer_blocks.{}.", "decoder/", depths.decoder, _single_block(cfg), first=depths.single)
  return rows


def _mlp(first, second, ours):
  return [*dense(first, ours + "/up"), *dense(second, ours + "/down")]


def _attention(query, key, value, query_norm, key_norm, ours):
  """Rows of what makes the queries, keys and values: three projections to heads and two RMS norms without bias."""
  rows = [row for theirs, name in ((query, "query"), (key, "key"), (value, "value"))
          for row in dense(theirs, f"{ours}/{name}", TO_HEADS, HEADS_BIAS)]
  return rows + [Row(query_norm + ".weight", ours + "/query_norm/scale", SAME),
                 Row(key_norm + ".weight", ours + "/key_norm/scale", SAME)]


def _separate_cross():
  return [*_attention(*("cross_attn." + n for n in ("to_q", "to_k", "to_v", "norm_q", "norm_k")), "cross"),
          *dense("cross_attn.to_out.0", "cross/out", FROM_HEADS)]


def _dual_block(cfg):
  rows = [
      *dense("norm1.linear", "video/modulation"), *dense("norm1_context.linear", "text/modulation"),
      *_attention("attn.to_q", "attn.to_k", "attn.to_v", "attn.norm_q", "attn.norm_k", "video/attention"),
      *_attention("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.norm_added_q", "attn.norm_added_k",
                  "text/attention"),
      *dense("attn.to_out.0", "video/attention/out", FROM_HEADS), *dense("attn.to_add_out", "text/attention/out", FROM_HEADS),
      *_mlp("ff.net.0.proj", "ff.net.2", "video/mlp"), *_mlp("ff_context.net.0.proj", "ff_context.net.2", "text/mlp"),
  ]
  return rows + _separate_cross() if cfg.cross_attention.dual else rows


def _single_block(cfg):
  return [
      *dense("norm.linear", "modulation"),
      *_attention("attn.to_q", "attn.to_k", "attn.to_v", "attn.norm_q", "attn.norm_k", "attention"),
      *dense("proj_mlp", "mlp/up"),
      # proj_out reads [attention ; mlp]; its one bias is the mlp's.
      Row("proj_out.weight", "attention/out/kernel", FROM_HEADS, slice(None, cfg.width)),
      Row("proj_out.weight", "mlp/down/kernel", LINEAR, slice(cfg.width, None)),
      Row("proj_out.bias", "mlp/down/bias", SAME),
  ]


def _single_cross(cfg, layout):
  """Rows of the cross-attention of the single-stream blocks."""
  kind, query_norm = cfg.cross_attention.kind, cfg.cross_attention.query_norm
  if kind == "none":
    return []
  if kind == "separate":
    return _separate_cross()
  if layout == "diffusers":
    return [*dense("cross_attn.to_q", "cross/query", TO_HEADS, HEADS_BIAS),
            *dense("cross_attn.to_out.0", "cross/out", FROM_HEADS)]
  count = {"none": 0, "scale": 1, "scale_bias": 2}[query_norm]
  above = "attn." if layout == "legacy_attn" else ""
  return [*dense(above + "cross_attn_query_proj", "cross/query", TO_HEADS, HEADS_BIAS),
          *norm(above + "cross_attn_query_norm", "cross/query_layernorm")[:count],
          *dense(above + "cross_attn_out_proj", "cross/out", FROM_HEADS)]


def _copies():
  """What a shared cross-attention has of the self-attention, which the diffusers layout writes out again."""
  own = _attention(*("cross_attn." + n for n in ("to_q", "to_k", "to_v", "norm_q", "norm_k")), "attention")
  return [row for row in own if not row.ours.startswith("attention/query/")]
