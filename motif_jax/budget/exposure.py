"""What of a step's communication nothing hides, in closed form: each message with its bytes, its time at line rate, what is left.

Depth is a scan, so what can run beside a message is in its own block, and what can hide it follows from what waits for what
(`tests/test_parallel.py` reads that off the compiled module) and from what XLA's scheduler for GPUs makes of it (docs/speed.md):

  weights of modulation, queries, keys and values   nothing: the block begins with them
  all other weights of the block                    its attention, in which they are not needed
  tokens for heads, and heads for tokens            the MLP of the single-stream blocks, which stands beside attention; in dual
                                                    blocks nothing
  keys and values                                   nothing on the way forward: attention begins with them
  gradients                                         nothing: XLA sends those of a block in one message, when the last is made
  what lies outside the blocks                      nothing

A copy engine or a kernel of NCCL that slows what it runs beside is not in it, nor is latency: line rates are a lower bound.
"""

import math
import re
from typing import NamedTuple

from motif_jax.budget import flops
from motif_jax.budget.devices import Device
from motif_jax.budget.memory import WIDE, parameters
from motif_jax.budget.traffic import GRADIENT, messages
from motif_jax.budget.workload import Split, Tokens, kept
from motif_jax.compiled import Collective
from motif_jax.config import Config
from motif_jax.model.plan import Segment
from motif_jax.sharding import spec_of

FIRST = re.compile(r".*/modulation/.*|(?!.*/cross/).*/attention/(query|key|value).*")  # parameters that a block begins with
BLOCK = re.compile(r"(dual|single|decoder)/.*")


class Row(NamedTuple):
  """Messages of one kind in a step, of one device."""

  what: str
  kind: str  # of collective
  group: int  # devices that take part
  network: bool  # whether they lie in several nodes
  count: int
  sent: float  # bytes
  seconds: float  # at line rate
  exposed: float  # of these, seconds in which nothing of ours can run


def rows_of(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int, device: Device,
            *, utilisation: float) -> list[Row]:
  """The `Row`s of a training step with `rows` samples on each device, what is exposed most first.

  `utilisation`: the share of the device's peak at which FLOPs run that hide something.
  """
  found = _outside(cfg, split, device)
  for segment in plan:
    seen = kept(cfg, tokens) if segment.routed else tokens
    for final in (False, True):
      blocks = segment.final if final else segment.stop - segment.start - segment.final
      made = _of_block(cfg, segment.kind, seen, split, rows / split.accumulate, device, utilisation * device.flops, bool(final))
      found += [_times(row, blocks * split.accumulate) for row in made]
  return sorted(_merged(found), key=lambda row: (-row.exposed, -row.seconds))


def _of_block(cfg, kind, tokens, split, rows, device, rate, final) -> list[Row]:
  model, again = cfg.model, int(cfg.model.remat != "none")
  once = flops.FORWARD[kind](model, tokens, split, final=final)
  attention = rows * once.attention / rate, rows * (flops.trained(model, once).attention - once.attention) / rate
  mlp = rows * _mlp(model, kind, tokens, split, final) / rate
  beside = (0.0, 0.0) if kind == "dual" else (mlp, (2 + again) * mlp)
  of_kind = lambda first: lambda path: path.startswith(f"{kind}/") and bool(FIRST.fullmatch(path)) == first
  at_first, later = _sizes(cfg, of_kind(True)), _sizes(cfg, of_kind(False))
  depth = getattr(model.depths, kind)
  narrow = 2 if model.dtype == "bfloat16" else WIDE
  row = lambda what, collective, span: _row(what, collective, span, device)
  gathered = lambda size: Collective("all-gather", size[0] // depth * narrow, 1, split.state)
  found = []
  for backward, repeats in ((False, 1), (True, again)):
    found += _hidden([row("weights in front of attention", gathered(at_first), split.state)] * repeats, 0.0)
    found += _hidden([row("weights behind attention", gathered(later), split.state)] * repeats, attention[backward])
    along = [row(m.what, Collective(m.kind, m.bytes, m.backward if backward else m.forward, m.group), split.sequence)
             for m in messages(cfg, kind, tokens, split, rows, final=final)]
    at_once = lambda row: row.what == "keys and values" and row.kind == "all-gather"
    found += [r for r in along if at_once(r)] + _hidden([r for r in along if not at_once(r)], beside[backward])
  return found + _gradients("gradients", tuple(map(sum, zip(at_first, later))), depth, split, device)


def _outside(cfg, split, device) -> list[Row]:
  """Embedders, the way out, and the projector."""
  size = _sizes(cfg, lambda path: not BLOCK.fullmatch(path))
  narrow = 2 if cfg.model.dtype == "bfloat16" else WIDE
  weights = _row("outside the blocks", Collective("all-gather", size[0] * narrow, 1, split.state), split.state, device)
  found = [weights, *_gradients("outside the blocks", size, 1, split, device)]
  return [_times(row, split.accumulate) for row in found]


def _gradients(what, size, depth, split, device) -> list[Row]:
  """Summed and cut where the weights are, then summed over data."""
  over_data = size[0] // depth * GRADIENT // split.state
  cut, whole = (count // depth for count in size)
  return [_row(what, Collective("reduce-scatter", cut * GRADIENT, 1, split.state), split.state, device),
          _row(f"{what}, over data", Collective("all-reduce", over_data, 1, split.data), split.devices, device),
          _row(f"{what}, small ones", Collective("all-reduce", whole * GRADIENT, 1, split.devices), split.devices, device)]


def _mlp(cfg, kind, tokens, split, final) -> float:
  """FLOPs of a block's MLP, forward, on one sample."""
  video = tokens.video / split.sequence
  others = 0 if final else video if kind == "decoder" else tokens.context
  return 2 * 2 * cfg.mlp_ratio * cfg.width**2 * (video + others)


def _sizes(cfg, wanted) -> tuple[int, int]:
  """(numbers in parameters that are cut, in those that are whole on each device), of those whose path is wanted."""
  cut = whole = 0
  for path, shape in parameters(cfg).items():
    if wanted(path):
      cut, whole = (cut + math.prod(shape), whole) if any(spec_of(path, shape)) else (cut, whole + math.prod(shape))
  return cut, whole


def _row(what, collective, span, device) -> Row:
  """`span`: devices, in the order of the mesh, from the first to the last that take part."""
  network = span > device.node
  seconds = collective.sent / (device.network if network else device.link)
  return Row(what, collective.kind, collective.group, network, collective.count, collective.sent, seconds, seconds)


def _hidden(rows, window) -> list[Row]:
  """`rows` with what is left of them where `window` seconds of work stand beside them."""
  total = sum(row.seconds for row in rows)
  left = max(0.0, 1 - window / total) if total else 0.0
  return [row._replace(exposed=row.seconds * left) for row in rows]


def _times(row, count) -> Row:
  return row._replace(count=row.count * count, sent=row.sent * count, seconds=row.seconds * count, exposed=row.exposed * count)


def _merged(found) -> list[Row]:
  """One row for each kind of message that is sent at all."""
  merged: dict[tuple, Row] = {}
  for row in found:
    if row.sent:
      before = merged.get(row[:4])
      merged[row[:4]] = row if before is None else Row(*row[:4], *(a + b for a, b in zip(before[4:], row[4:])))
  return list(merged.values())
