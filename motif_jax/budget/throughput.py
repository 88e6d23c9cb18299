"""What a training step amounts to, for rates while it runs: tokens, model FLOPs, executed FLOPs, and the device's peak.

The share of the peak that model FLOPs reach is the MFU of papers (PaLM, arXiv 2204.02311, appendix B): three dense forward passes
a step, whatever routing leaves out or rematerialisation repeats.  Executed FLOPs, beside it, are what the devices do.
"""

import functools
from typing import NamedTuple

from motif_jax.budget import flops
from motif_jax.budget.devices import DEVICES
from motif_jax.budget.workload import make_split, tokens_of
from motif_jax.config import Config
from motif_jax.model.plan import Segment

# How drivers name the kinds of `DEVICES`.  Whole names: "NVIDIA H200 NVL" and PCIe boards have other peaks.
NAMES = {"NVIDIA H200": "h200", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100-80"}


class Work(NamedTuple):
  """Of a training step."""

  tokens: int  # of video, on all devices
  model_flops: float  # per device
  executed_flops: float  # per device


@functools.cache
def step_work(cfg: Config, latent_grid: tuple[int, int, int], text: int, plan: tuple[Segment, ...],
              sizes: tuple[int, int, int], *, image: int = 0) -> Work:
  """The `Work` of a step on a mesh of `sizes` (data, fsdp, sequence), for latents of that grid, `text` and `image` tokens."""
  tokens = tokens_of(cfg.model, latent_grid, text, image)
  split = make_split(sizes, cfg.model.heads, accumulate=cfg.train.accumulate)
  executed = sum(part.total for part in flops.executed(cfg, tokens, plan, split).values())
  rows = cfg.data.rows(tokens.video)
  return Work(tokens.video * rows, flops.model_flops(cfg.model, tokens).total * rows / split.devices,
              executed * rows / split.batch)


def peak_of(device_kind: str) -> float | None:
  """FLOP/s, bfloat16 and dense, of a device that calls itself `device_kind`; None where it is not known."""
  return DEVICES[NAMES[device_kind]].flops if device_kind in NAMES else None
