"""What training asks of the data pipeline: clips and bytes per second, of one host with all its devices.

A step computes for as long as its FLOPs take and reads its clips meanwhile, so the pipeline is no bottleneck where it delivers
these rates.  They do not depend on the batch size, nor on how many hosts there are.
"""

from typing import NamedTuple

from motif_jax.budget import flops
from motif_jax.budget.devices import Device, check_share
from motif_jax.budget.workload import Split, Tokens
from motif_jax.config import Config
from motif_jax.model.plan import Segment


class Demand(NamedTuple):
  """Of a bucket, on one host."""

  seconds: float  # of one device, per clip
  clips: float  # per second
  bytes: float  # per second


def demand(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], device: Device, *, clip_bytes: float,
           utilisation: float) -> Demand:
  """The `Demand` of clips of so many tokens and bytes, where executed FLOPs reach `utilisation` of the devices' peak.

  The optimizer's and the network's time is left out: with them a step is longer and the demand smaller.
  """
  check_share(utilisation)
  executed = sum(part.total for part in flops.executed(cfg, tokens, plan, Split()).values())
  seconds = executed / (utilisation * device.flops)
  return Demand(seconds, device.node / seconds, device.node / seconds * clip_bytes)
