"""Which of the three cross-attention layouts a checkpoint has, from its names, and from its values where names do not tell.

In the diffusers layout keys, values and QK norms of the cross-attention may be copies of the self-attention's (then they are one
parameter here, as in the paper's Shared Cross-Attention) or weights of their own; only a comparison of bits tells (model.md
section 2).
"""

from collections.abc import Mapping
import re
from typing import NamedTuple

import numpy as np

from motif_jax.config import CrossAttentionConfig
from motif_jax.weights import read

CHUNK = 1 << 20  # elements compared at once
# What the cross-attention of a block may have in common with its self-attention.
SHARED = ("to_k.weight", "to_k.bias", "to_v.weight", "to_v.bias", "norm_q.weight", "norm_k.weight")
WRITTEN = {"cross_attn.": "diffusers", "cross_attn_": "legacy", "attn.cross_attn_": "legacy_attn"}
SAID = {
    "legacy": "the legacy layout: keys and values are the self-attention's, and the query has {norm}",
    "legacy_attn": "the layout that diffusers had for some weeks, legacy names below `attn.`: keys and values are the "
                   "self-attention's, and the query has {norm}, which the code of those weeks left out; here it is applied",
}
NORMS = {"none": "no LayerNorm", "scale": "a LayerNorm without bias", "scale_bias": "a LayerNorm with a bias"}


class Layout(NamedTuple):
  """What was found."""

  name: str | None  # of `names.LAYOUTS`; None: no cross-attention in the single-stream blocks
  blocks: tuple[int, ...]  # the single-stream blocks that have it
  tied: tuple[int, ...]  # of them, those whose keys, values and norms are the self-attention's; of the diffusers layout
  query_norm: str
  dual: bool

  @property
  def cross_attention(self) -> CrossAttentionConfig:
    """The cross-attention of a model that holds it; some blocks tied and others not is separate, because a stack is one tree."""
    separate = self.name == "diffusers" and self.tied != self.blocks
    kind = "none" if self.name is None else "separate" if separate else "shared"
    return CrossAttentionConfig(kind, self.query_norm, self.dual)

  def __str__(self) -> str:
    also = "; the dual-stream blocks have one of their own" if self.dual else ""
    if self.name is None:
      return "no text cross-attention in the single-stream blocks" + also
    if self.name != "diffusers":
      return SAID[self.name].format(norm=NORMS[self.query_norm]) + also
    count, all_of = len(self.tied), len(self.blocks)
    if count == all_of:
      how = f"bit-equal to the self-attention's in all {all_of} blocks: kept once, as shared cross-attention"
    elif not count:
      how = f"bit-equal to the self-attention's in none of {all_of} blocks: kept separate"
    else:
      how = (f"bit-equal to the self-attention's in {count} of {all_of} blocks ({', '.join(map(str, self.tied))}), so they were "
             "trained apart in the others: kept separate in all")
    return f"the diffusers layout: keys, values and QK norms are {how}" + also


def detect(tensors: Mapping[str, read.Tensor]) -> tuple[Layout, list[str]]:
  """(the layout, what is wrong with it) of the tensors of a transformer.  Reads those that may be copies."""
  found = {}
  for name in tensors:
    match = re.fullmatch(r"single_transformer_blocks\.(\d+)\.(attn\.cross_attn_|cross_attn_|cross_attn\.).*", name)
    if match:
      found.setdefault(WRITTEN[match[2]], set()).add(int(match[1]))
  dual = any(re.match(r"transformer_blocks\.\d+\.cross_attn\.", name) for name in tensors)
  if not found:
    return Layout(None, (), (), "none", dual), []
  faults = []
  if len(found) > 1:
    said = "; ".join(f"{layout} in blocks {', '.join(map(str, sorted(blocks)))}" for layout, blocks in sorted(found.items()))
    faults.append(f"the single-stream blocks mix cross-attention layouts ({said}); a checkpoint has one of them, take its files "
                  "from one export.")
  layout = max(found, key=lambda name: len(found[name]))
  blocks = tuple(sorted(found[layout]))
  norm = "none"
  if layout != "diffusers":
    leaves = {leaf for leaf in ("weight", "bias") if any(name.endswith(f"cross_attn_query_norm.{leaf}") for name in tensors)}
    norm = "scale_bias" if "bias" in leaves else "scale" if leaves else "none"
  tied = tuple(block for block in blocks if _tied(tensors, block)) if layout == "diffusers" else ()
  return Layout(layout, blocks, tied, norm, dual), faults


def _tied(tensors, block) -> bool:
  """Whether everything that the cross-attention of a block could share is bit-equal to the self-attention's."""
  prefix = f"single_transformer_blocks.{block}."
  pairs = [tuple(tensors.get(f"{prefix}{part}.{leaf}") for part in ("cross_attn", "attn")) for leaf in SHARED]
  return all(one and other and same_bits(one, other) for one, other in pairs)


def same_bits(one: read.Tensor, other: read.Tensor) -> bool:
  """Whether two tensors are equal bit for bit; reads them a chunk at a time, up to the first that differs."""
  if (one.dtype, one.shape) != (other.dtype, other.shape):
    return False
  rows = max(1, CHUNK * one.shape[0] // max(1, int(np.prod(one.shape)))) if one.shape else 1
  for start in range(0, one.shape[0] if one.shape else 1, rows):
    block = (slice(start, start + rows),) if one.shape else ()
    if read.copy_block(one, block).tobytes() != read.copy_block(other, block).tobytes():
      return False
  return True
