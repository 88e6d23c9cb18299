"""Checkpoint names and our parameter paths: one table, read in both directions.

Two layouts share all but the cross-attention of the single-stream blocks (model.md sections 1.10 and 2):
  diffusers  kind "separate": `single_transformer_blocks.N.cross_attn.*`, with its own keys and values and no query LayerNorm
  legacy     kind "shared":   `single_transformer_blocks.N.cross_attn_{query_proj,query_norm,out_proj}` and nothing else
Theirs is a flat dict with one entry per layer and (out, in) kernels; ours a tree with stacked layers and (in, out) kernels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from einops import pack, rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from motif_jax.config import ModelConfig
from motif_jax.model import transformer

# Transforms, theirs -> ours, as einops patterns; read backwards they are the inverse.  N heads of h features.
SAME = "v -> v"
LINEAR = "o i -> i o"
TO_HEADS = "(N h) i -> i N h"
HEADS_BIAS = "(N h) -> N h"
FROM_HEADS = "o (N h) -> N h o"
PATCH = "o c t y x -> (c t y x) o"  # Conv3d with stride = kernel, as a dense layer over (channel, time, height, width)


class Row(NamedTuple):
  """One parameter of ours and where it stands in their checkpoint."""

  theirs: str  # "{}" stands for the layer
  ours: str
  how: str
  columns: slice = slice(None)  # of their tensor, where several of our parameters are the columns of one of theirs
  first: int = 0  # their index of our layer 0
  layers: int | None = None  # None: not a stack

  def names(self) -> list[str]:
    """Their names, one per layer."""
    return [self.theirs] if self.layers is None else [self.theirs.format(self.first + i) for i in range(self.layers)]


def table(cfg: ModelConfig) -> list[Row]:
  """Every parameter of the model, beside its name in the checkpoints of `cfg.cross_attention.kind`."""
  rows = [*_dense("x_embedder.proj", "video_embed", PATCH),
          *_mlp("context_embedder.linear_1", "context_embedder.linear_2", "text_embed"),
          *_mlp("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2", "time_embed"),
          *_dense("norm_out.linear", "output/modulation"), *_dense("proj_out", "output/proj")]
  if cfg.image_dim:
    rows += [*_norm("image_embedder.norm_in", "image_embed/norm_in"), *_norm("image_embedder.norm_out", "image_embed/norm_out"),
             *_mlp("image_embedder.linear_1", "image_embedder.linear_2", "image_embed")]
  depths = cfg.depths
  rows += _stack("transformer_blocks.{}.", "dual/", 0, depths.dual, _dual_block(cfg))
  rows += _stack("single_transformer_blocks.{}.", "single/", 0, depths.single, [*_single_block(cfg), *_single_cross(cfg)])
  rows += _stack("single_transformer_blocks.{}.", "decoder/", depths.single, depths.decoder, _single_block(cfg))
  return rows


def to_ours(theirs: Mapping[str, np.ndarray], cfg: ModelConfig) -> dict:
  """Our parameter tree, of numpy arrays, from their flat dict.  ValueError lists all that is missing, unused or misshaped."""
  _check(theirs, their_shapes(cfg))
  ours = {}
  for row in table(cfg):
    layers = [_rearrange(np.asarray(theirs[name])[..., row.columns], row.how, cfg) for name in row.names()]
    ours[row.ours] = layers[0] if row.layers is None else np.stack(layers)
  return unflatten_dict(ours, sep="/")


def to_theirs(tree: Mapping, cfg: ModelConfig) -> dict:
  """Their flat dict from our parameter tree, or from anything of its structure: gradients, traced arrays."""
  leaves = flatten_dict(tree, sep="/")
  _check(leaves, our_shapes(cfg))
  pieces = {}
  for row in table(cfg):
    layers = [leaves[row.ours]] if row.layers is None else leaves[row.ours]
    for name, layer in zip(row.names(), layers, strict=True):
      pieces.setdefault(name, []).append(_rearrange(layer, _reversed(row.how), cfg))
  return {name: parts[0] if len(parts) == 1 else pack(parts, "o *")[0] for name, parts in pieces.items()}


def our_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter of the model, at no cost in memory."""
  return {path: leaf.shape for path, leaf in flatten_dict(_abstract(cfg), sep="/").items()}


def their_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor of their checkpoint, at no cost in memory."""
  return {name: leaf.shape for name, leaf in jax.eval_shape(lambda tree: to_theirs(tree, cfg), _abstract(cfg)).items()}


def _abstract(cfg):
  return jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0))


def _dense(theirs, ours, how=LINEAR, bias=SAME):
  return [Row(theirs + ".weight", ours + "/kernel", how), Row(theirs + ".bias", ours + "/bias", bias)]


def _mlp(first, second, ours):
  return [*_dense(first, ours + "/up"), *_dense(second, ours + "/down")]


def _norm(theirs, ours):
  return [Row(theirs + ".weight", ours + "/scale", SAME), Row(theirs + ".bias", ours + "/bias", SAME)]


def _attention(query, key, value, query_norm, key_norm, ours):
  """Rows of what makes the queries, keys and values: three projections to heads and two RMS norms without bias."""
  rows = [row for theirs, name in ((query, "query"), (key, "key"), (value, "value"))
          for row in _dense(theirs, f"{ours}/{name}", TO_HEADS, HEADS_BIAS)]
  return rows + [Row(query_norm + ".weight", ours + "/query_norm/scale", SAME),
                 Row(key_norm + ".weight", ours + "/key_norm/scale", SAME)]


def _separate_cross():
  return [*_attention(*("cross_attn." + n for n in ("to_q", "to_k", "to_v", "norm_q", "norm_k")), "cross"),
          *_dense("cross_attn.to_out.0", "cross/out", FROM_HEADS)]


def _dual_block(cfg):
  rows = [
      *_dense("norm1.linear", "video/modulation"), *_dense("norm1_context.linear", "text/modulation"),
      *_attention("attn.to_q", "attn.to_k", "attn.to_v", "attn.norm_q", "attn.norm_k", "video/attention"),
      *_attention("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.norm_added_q", "attn.norm_added_k",
                  "text/attention"),
      *_dense("attn.to_out.0", "video/attention/out", FROM_HEADS), *_dense("attn.to_add_out", "text/attention/out", FROM_HEADS),
      *_mlp("ff.net.0.proj", "ff.net.2", "video/mlp"), *_mlp("ff_context.net.0.proj", "ff_context.net.2", "text/mlp"),
  ]
  return rows + _separate_cross() if cfg.cross_attention.dual else rows


def _single_block(cfg):
  return [
      *_dense("norm.linear", "modulation"),
      *_attention("attn.to_q", "attn.to_k", "attn.to_v", "attn.norm_q", "attn.norm_k", "attention"),
      *_dense("proj_mlp", "mlp/up"),
      # proj_out reads [attention ; mlp]; its one bias is the mlp's.
      Row("proj_out.weight", "attention/out/kernel", FROM_HEADS, slice(None, cfg.width)),
      Row("proj_out.weight", "mlp/down/kernel", LINEAR, slice(cfg.width, None)),
      Row("proj_out.bias", "mlp/down/bias", SAME),
  ]


def _single_cross(cfg):
  """Rows of the single-stream cross-attention: the diffusers layout of "separate", the legacy layout of "shared"."""
  kind, query_norm = cfg.cross_attention.kind, cfg.cross_attention.query_norm
  if kind == "none":
    return []
  if kind == "separate":
    return _separate_cross()
  norm = {"none": 0, "scale": 1, "scale_bias": 2}[query_norm]
  return [*_dense("cross_attn_query_proj", "cross/query", TO_HEADS, HEADS_BIAS),
          *_norm("cross_attn_query_norm", "cross/query_layernorm")[:norm],
          *_dense("cross_attn_out_proj", "cross/out", FROM_HEADS)]


def _stack(theirs, ours, first, layers, rows):
  """`rows` of one block, for a stack of `layers`; a part of depth 0 has no parameters."""
  return [row._replace(theirs=theirs + row.theirs, ours=ours + row.ours, first=first, layers=layers) for row in rows if layers]


def _reversed(how):
  return " -> ".join(reversed(how.split(" -> ")))


def _rearrange(array, how, cfg):
  sizes = dict(zip("Nhctyx", (cfg.heads, cfg.head_dim, 2 * cfg.latent_channels + 1, *cfg.patch)))
  return rearrange(array, how, **{axis: size for axis, size in sizes.items() if axis in how})


def _check(given, expected):
  """ValueError unless the mapping `given` has exactly the names and shapes of `expected`."""
  missing, unused = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
  misshaped = [f"{name} is {tuple(given[name].shape)}, expected {shape}" for name, shape in sorted(expected.items())
               if name in given and tuple(given[name].shape) != shape]
  if missing or unused or misshaped:
    raise ValueError(f"{len(missing)} tensors are missing: {_some(missing)}; {len(unused)} are not used: {_some(unused)}; "
                     f"{len(misshaped)} have the wrong shape: {_some(misshaped)}.  Does the config fit the checkpoint?")


def _some(items):
  """The first five of `items`, for an error."""
  return ", ".join(items[:5]) + (", ..." if len(items) > 5 else "") if items else "none"
