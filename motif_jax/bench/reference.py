"""diffusers' torch transformer against ours, on this device, at the same shapes: forward, and forward and backward.

Both without padding and with the cross-attention that diffusers has ("separate").  Torch runs in a process of its own
(`launch/reference.py`), and first: what jax has taken of a GPU it keeps.
"""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp

from motif_jax.bench.case import Case, Job, Prepared, lively, normals
from motif_jax.bench.results import ROOT
from motif_jax.bench.sizes import STRIDES
from motif_jax.budget import flops, workload
from motif_jax.config import CrossAttentionConfig, ModelConfig
from motif_jax.model import transformer
from motif_jax.model.plan import make_plan

NAMES = {"torch": "reference/torch", "ours": "reference/ours"}


def cases(job: Job) -> list[Case]:
  """All of torch's, then all of ours."""
  return [_case(job, bucket, whose, gradient=gradient)
          for whose in NAMES for bucket in job.sizes.reference for gradient in (True, False)]


def ratios(entries: list[dict]) -> list[str]:
  """A line for each case that both sides have run."""
  done = {entry["name"]: entry["seconds"]["median"] for entry in entries if entry["status"] == "ok" and "seconds" in entry}
  lines = []
  for name, theirs in done.items():
    ours = done.get(name.replace(NAMES["torch"], NAMES["ours"], 1))
    if name.startswith(NAMES["torch"]) and ours:
      lines.append(f"{name.removeprefix(NAMES['torch'] + '/')}: torch takes {theirs / ours:.3g} times as long as ours")
  return lines


def _case(job, bucket, whose, *, gradient):
  cfg = job.load(job.sizes.config)
  model = dataclasses.replace(cfg.model, cross_attention=CrossAttentionConfig("separate", "none", False))
  grid = workload.latent_grid(bucket, STRIDES)
  tokens = workload.tokens_of(model, grid, cfg.data.text_tokens // 4)
  settings = {"config": job.sizes.config, "batch": 1, "bucket": dataclasses.astuple(bucket), "video tokens": tokens.video,
              "text": tokens.text, "dtype": model.dtype, "config keys": job.changed}
  own = {"attention": model.attention, "remat": model.remat}
  settings |= own if whose == "ours" else {"compile": job.sizes.reference_compiled}
  once = flops.forward(dataclasses.replace(model, attention="xla"), tokens).total
  work = dict(model=once * (3 if gradient else 1), dtype=model.dtype)
  name = f"{NAMES[whose]}/{bucket.frames}x{bucket.height}x{bucket.width}/{'forward+backward' if gradient else 'forward'}"
  if whose == "torch":
    return Case(name, settings, measure=lambda: _torch(model, grid, tokens.text, job.sizes, gradient=gradient), **work)
  executed = flops.evaluated(model, tokens).total
  if gradient:
    parts = flops.executed(dataclasses.replace(cfg, model=model), tokens, make_plan(model.depths))
    executed = sum(part.total for part in parts.values())
  return Case(name, settings, lambda: _prepared(model, grid, tokens.text, gradient=gradient), executed=executed, **work)


def _prepared(cfg, grid, text, *, gradient):
  params = lively(jax.jit(lambda key: transformer.init(key, cfg))(jax.random.key(0)))

  def forward(params, latents, features, cotangent):
    del cotangent
    return transformer.apply(params, cfg, latents, jnp.full(1, 0.5), features)[0]

  def backward(params, latents, features, cotangent):
    out, pull = jax.vjp(lambda params: forward(params, latents, features, None), params)
    return out, pull(cotangent)

  shapes = (1, *grid, 2 * cfg.latent_channels + 1), (1, text, cfg.text_dim), (1, *grid, cfg.latent_channels)
  return Prepared(jax.jit(backward if gradient else forward), [(params, *normals(seed, *shapes)) for seed in range(2)])


def _torch(cfg: ModelConfig, grid, text, sizes, *, gradient) -> dict:
  asked = {"model": arguments(cfg), "latents": [1, 2 * cfg.latent_channels + 1, *grid], "text": [1, text, cfg.text_dim],
           "gradient": gradient, "compile": sizes.reference_compiled, "seconds": sizes.seconds}
  done = subprocess.run([sys.executable, "-m", "launch.reference"], cwd=ROOT, input=json.dumps(asked), capture_output=True,
                        text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})
  if done.returncode:
    raise ValueError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"it ended with {done.returncode}")
  return json.loads(done.stdout.splitlines()[-1])


def arguments(cfg: ModelConfig) -> dict:
  """Of diffusers' MotifVideoTransformer3DModel, for a config with separate cross-attention."""
  return dict(
      in_channels=2 * cfg.latent_channels + 1, out_channels=cfg.latent_channels, num_attention_heads=cfg.heads,
      attention_head_dim=cfg.head_dim, num_layers=cfg.depths.dual, num_single_layers=cfg.depths.single + cfg.depths.decoder,
      num_decoder_layers=cfg.depths.decoder, mlp_ratio=cfg.mlp_ratio, patch_size=cfg.patch[1], patch_size_t=cfg.patch[0],
      text_embed_dim=cfg.text_dim, image_embed_dim=cfg.image_dim or None, rope_theta=cfg.rope_theta, rope_axes_dim=cfg.rope_axes,
      enable_text_cross_attention_dual=False, enable_text_cross_attention_single=True)
