"""Attention alone: each backend at the lengths of the released model, whole and by groups of heads, and inside `shard_map`.

A batch of one, (1, S, N, D).  The last tokens are text; with padding a quarter of it is real.  FLOPs count every query and key.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

from motif_jax.bench.case import Case, Job, Prepared, normals, sets_of
from motif_jax.budget import flops, workload
from motif_jax.config import MeshConfig, ModelConfig
from motif_jax.mesh import ACTIVATION_AXES, make_mesh
from motif_jax.model import attention
from motif_jax.model.attention import BACKENDS


def cases(job: Job) -> list[Case]:
  """From the most valuable: all heads with padding, as training has it; then by groups of heads; alone after in `shard_map`."""
  sizes, found = job.sizes, []
  heads = job.load(sizes.config).model.heads
  for backend in sizes.backends:
    for length in sizes.lengths:
      found += [_case(job, backend, length, heads, padded=True, spread=False, gradient=g) for g in (True, False)]
  for length in sizes.lengths:
    for backend in sizes.backends:
      for gradient in (True, False):
        make = lambda count, **how: _case(job, backend, length, count, gradient=gradient, **how)
        found += [make(heads, padded=True, spread=True), make(heads, padded=False, spread=False)]
        if length >= sizes.grouped:
          found += [make(heads // 2, padded=True, spread=False), make(heads // 4, padded=True, spread=False)]
  return found


def _case(job, backend, length, heads, *, padded, spread, gradient):
  sizes, head_dim = job.sizes, job.load(job.sizes.config).model.head_dim
  devices = len(jax.devices()) if spread else 1
  cfg = dataclasses.replace(job.load(sizes.config).model, heads=heads, width=heads * head_dim, attention=backend, remat="none")
  once = attention_flops(cfg, length, sizes.text, devices)
  settings = {"batch": 1, "length": length, "heads": heads, "head_dim": head_dim, "dtype": sizes.dtype, "text": sizes.text,
              "real text": sizes.text // 4 if padded else sizes.text, "devices of shard_map": devices if spread else 0}
  where = f"{length}/{heads} heads/{'padded' if padded else 'full'}{'/shard_map' if spread else ''}"
  logits = 4.0 * heads * length**2 / devices
  refusal = ""
  if backend == "xla" and 2 * logits > job.memory:
    refusal = f"out of memory: two arrays of logits of {logits / 1e9:.3g} GB each; the device has {job.memory / 1e9:.3g} GB"
  prepare = lambda: _prepared(backend, length, heads, head_dim, sizes, padded=padded, spread=spread, gradient=gradient)
  return Case(f"attention/{backend}/{where}/{'forward+backward' if gradient else 'forward'}", settings, prepare,
              model=once * (3 if gradient else 1), executed=flops.trained(cfg, flops.Flops(attention=once)).total if gradient
              else once, dtype=sizes.dtype, refusal=refusal)


def attention_flops(cfg: ModelConfig, length: int, text: int, devices: int) -> float:
  """Of one device, forward; `text` of the tokens are whole on each."""
  split = workload.make_split((1, 1, devices), cfg.heads)
  return flops.attention(cfg, length - text, text, split)


def _prepared(backend, length, heads, head_dim, sizes, *, padded, spread, gradient):
  lengths = (length - sizes.text, sizes.text)
  mesh = make_mesh(MeshConfig(1, 1, -1)) if spread else None
  real = jnp.arange(sizes.text)[None] < sizes.text // 4
  masks = (None, real) if padded else (None, None)

  def forward(queries, keys, values):
    if spread:
      return attention.attend(queries, keys, values, masks, backend=backend, names=("video", None))
    joint = None if not padded else jnp.concatenate([jnp.ones((1, lengths[0]), bool), real], axis=1)
    return (BACKENDS[backend](queries[0], keys[0], values[0], joint),)

  def backward(queries, keys, values, cotangents):
    out, pull = jax.vjp(forward, queries, keys, values)
    return out, pull(cotangents)  # with the output, which training uses: else its product would be left out

  parts = lengths if spread else (length,)
  count = 4 if gradient else 3
  place = lambda x, i: jax.device_put(x, NamedSharding(mesh, P(None, (ACTIVATION_AXES["video"], None)[i]))) if spread else x

  def inputs(seed):
    arrays = normals(seed, *[(1, part, heads, head_dim) for part in parts] * count, dtype=sizes.dtype)
    placed = [place(x, i % len(parts)) for i, x in enumerate(arrays)]
    return tuple(tuple(placed[i:i + len(parts)]) for i in range(0, len(placed), len(parts)))

  size = count * length * heads * head_dim * jnp.dtype(sizes.dtype).itemsize
  return Prepared(jax.jit(backward if gradient else forward), [inputs(i) for i in range(sets_of(size))], mesh=mesh)
