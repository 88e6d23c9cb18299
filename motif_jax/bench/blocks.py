"""Blocks of each kind as the model runs them: a span of two, forward, and forward and backward under the config's remat.

Two, because a scan over one block is unrolled, and then nothing is recomputed.
"""

import dataclasses

import jax
import jax.numpy as jnp

from motif_jax.bench.case import Case, Job, Prepared, lively, normals, sets_of
from motif_jax.bench.sizes import STRIDES
from motif_jax.budget import flops, workload
from motif_jax.config import Depths
from motif_jax.model import stack
from motif_jax.model.blocks import BLOCKS
from motif_jax.model.rope import make_rope

COUNT = 2


def cases(job: Job) -> list[Case]:
  """Every kind at every bucket, forward+backward first."""
  return [_case(job, bucket, kind, gradient=gradient)
          for bucket in job.sizes.blocks for kind in BLOCKS for gradient in (True, False)]


def _case(job, bucket, kind, *, gradient):
  cfg = job.load(job.sizes.config)
  model = dataclasses.replace(cfg.model, depths=Depths(COUNT, COUNT, COUNT))
  grid = workload.latent_grid(bucket, STRIDES)
  tokens = workload.tokens_of(model, grid, cfg.data.text_tokens)
  once = flops.FORWARD[kind](model, tokens) * COUNT
  plain = flops.FORWARD[kind](dataclasses.replace(model, attention="xla"), tokens).total * COUNT
  settings = {"config": job.sizes.config, "blocks": COUNT, "batch": 1, "bucket": dataclasses.astuple(bucket),
              "video tokens": tokens.video, "text": tokens.text, "real text": tokens.text // 4, "dtype": model.dtype,
              "attention": model.attention, "remat": model.remat, "config keys": job.changed}
  prepare = lambda: _prepared(model, kind, grid, tokens, gradient=gradient)
  return Case(f"blocks/{kind}/{tokens.video}/{'forward+backward' if gradient else 'forward'}", settings, prepare,
              model=plain * (3 if gradient else 1), executed=(flops.trained(model, once) if gradient else once).total,
              dtype=model.dtype)


def _prepared(cfg, kind, grid, tokens, *, gradient):
  params = lively(stack.init_stack(jax.random.key(0), kind, cfg))
  lengths = (tokens.video, tokens.video if kind == "decoder" else tokens.text)

  def forward(params, inputs, cond):
    # Inside, as in the model: made outside, the angles of all tokens would be constants of the program (58 MB at 720p).
    rope = make_rope(tuple(size // p for size, p in zip(grid, cfg.patch)), cfg.rope_axes, cfg.rope_theta)
    masks = (None, None if kind == "decoder" else jnp.arange(tokens.text)[None] < tokens.text // 4)
    return stack.run_span(params, cfg, kind, 0, COUNT, inputs, masks, cond, rope)[0]

  def backward(params, inputs, cond, cotangents):
    out, pull = jax.vjp(lambda params, inputs: forward(params, inputs, cond), params, inputs)
    return out, pull(cotangents)

  def inputs(seed):
    *arrays, cond = normals(seed, *[(1, length, cfg.width) for length in lengths] * 2, (1, cfg.width), dtype=cfg.dtype)
    return (params, tuple(arrays[:2]), cond) + ((tuple(arrays[2:]),) if gradient else ())

  size = sum(lengths) * cfg.width * jnp.dtype(cfg.dtype).itemsize
  return Prepared(jax.jit(backward if gradient else forward), [inputs(i) for i in range(sets_of(size))])
