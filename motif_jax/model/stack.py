"""Stacks of equal blocks: depth is the leading axis of their parameters, running them is a scan under rematerialisation."""

from collections.abc import Callable
import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

from motif_jax.config import ModelConfig
from motif_jax.model import observe
from motif_jax.model.blocks import ATTENDED, Masks, Tokens, block_of
from motif_jax.model.rope import Rope


def init_stack(key: Array, kind: str, cfg: ModelConfig) -> dict:
  """Parameters of all blocks of one kind, each leaf with a leading depth axis."""
  depth = getattr(cfg.depths, kind)
  block = block_of(kind, cfg)
  tokens = (jnp.zeros((1, 2, cfg.width)),) * 2
  rope = Rope(*jnp.zeros((2, 2, cfg.head_dim // 2)))
  init = lambda k: block.init(k, tokens, (None, None), jnp.zeros((1, cfg.width)), rope)["params"]
  return jax.vmap(init)(jax.random.split(key, depth))


def run_span(params: dict, cfg: ModelConfig, kind: str, start: int, stop: int, tokens: Tokens, masks: Masks, cond: Array,
             rope: Rope, *, final: bool = False, measure: Callable | None = None) -> tuple[Tokens, dict | None]:
  """(`tokens` after blocks [start, stop) of a kind, whose stacked parameters are `params`; what `measure` made of each block).

  `final`: somebody reads the first segment alone; the last block leaves the others as they were (`blocks.py`).

  `measure`: (parameters of a block, tokens before, tokens after, `observe.Call`s in it) -> {name: (B,)}, from which come
  {name: (stop - start, B)}, without a gradient.
  """
  block = block_of(kind, cfg)

  def body(tokens, i, read=None):
    # Where it lies in the stack: a scan over a part of the stack would first copy that part, and its gradient another time.
    layer = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, i, keepdims=False), params)
    run = lambda: block.apply({"params": layer}, tokens, masks, cond, rope, read=read)
    if measure is None:
      return (*run(), *tokens[read or len(tokens):]), None
    after, calls = observe.with_calls(run)
    return (*after, *tokens[read or len(tokens):]), jax.lax.stop_gradient(measure(layer, tokens, after, calls))

  with jax.named_scope(kind):
    if not final:
      return _scan(body, cfg, tokens, start, stop)
    tokens, *measured = _scan(body, cfg, tokens, start, stop - 1) if stop - start > 1 else (tokens,)
    tokens, last = _scan(functools.partial(body, read=1), cfg, tokens, stop - 1, stop)
    return tokens, jax.tree.map(lambda *parts: jnp.concatenate(parts), *measured, last)


def _scan(body, cfg, tokens, start, stop):
  # XLA would unroll a loop over one block, and then hold all that rematerialisation computes again next to the forward pass.
  count = stop - start
  kept = set_xla_metadata(**{"skip-simplify-while-loops_trip-count-one": "true"}) if count == 1 else contextlib.nullcontext()
  with kept:
    return jax.lax.scan(REMAT[cfg.remat](body), tokens, jnp.arange(start, stop), unroll=min(cfg.unroll, count))


def kinds_of(cfg: ModelConfig) -> list[str]:
  """The kinds of block that the model has any of, in order."""
  return [field.name for field in dataclasses.fields(cfg.depths) if getattr(cfg.depths, field.name)]


def _save_attention(primitive, *avals, **params) -> bool:
  """Whether to save what an operation gives: outputs of attention, and of cuDNN's kernel the log-sum-exp too.

  With the named outputs alone cuDNN's kernel would run again in the backward pass, for its own residuals.
  """
  return primitive.name == "dot_product_attention_fwd_wrapper" or _named_attention(primitive, *avals, **params)


_named_attention = jax.checkpoint_policies.save_only_these_names(ATTENDED)


def _offloaded(body):
  """`body` under rematerialisation, with the tokens that enter it kept in the host's memory."""
  policy = jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[], names_which_can_be_offloaded=["tokens"], offload_src="device", offload_dst="pinned_host")
  named = lambda tokens, layer: body(jax.tree.map(lambda x: checkpoint_name(x, "tokens"), tokens), layer)
  return jax.checkpoint(named, prevent_cse=False, policy=policy)


# What a block keeps for its backward pass, from the most memory to the least.  prevent_cse=False: inside a scan nothing can be
# merged with the forward pass anyway.  A stack unrolled to its full depth is no scan any more: there XLA may recompute early, and
# on CPU none of these then saves memory.
REMAT = {
    "none": lambda body: body,  # every intermediate
    # Tokens between blocks and attention outputs.  Saves the backward pass one attention forward with "cudnn" and "chunked"; with
    # "xla" only the product with the values, because its softmax is needed again.
    "attention": lambda body: jax.checkpoint(body, prevent_cse=False, policy=_save_attention),
    "block": lambda body: jax.checkpoint(body, prevent_cse=False),  # tokens between blocks
    "offload": _offloaded,  # tokens between blocks, in pinned host memory; on CPU, which has one memory, the same as "block"
}
