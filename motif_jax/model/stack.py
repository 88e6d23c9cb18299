"""Stacks of equal blocks: depth is the leading axis of their parameters, running them is a scan under rematerialisation."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.config import ModelConfig
from motif_jax.model.blocks import Masks, Tokens, block_of
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
             rope: Rope) -> Tokens:
  """`tokens` after blocks [start, stop) of a kind, whose stacked parameters are `params`."""
  block = block_of(kind, cfg)

  def body(tokens, layer):
    with jax.named_scope(kind):
      return block.apply({"params": layer}, tokens, masks, cond, rope), None

  span = params if (start, stop) == (0, getattr(cfg.depths, kind)) else jax.tree.map(lambda w: w[start:stop], params)
  return jax.lax.scan(REMAT[cfg.remat](body), tokens, span)[0]


def kinds_of(cfg: ModelConfig) -> list[str]:
  """The kinds of block that the model has any of, in order."""
  return [field.name for field in dataclasses.fields(cfg.depths) if getattr(cfg.depths, field.name)]


REMAT = {
    "none": lambda body: body,  # keeps every intermediate for the backward pass
    "block": lambda body: jax.checkpoint(body, prevent_cse=False),  # keeps the tokens between blocks, recomputes the rest
}
