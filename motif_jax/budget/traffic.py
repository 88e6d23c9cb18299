"""The collectives of a training step, in closed form: what devices send each other, how often, in groups of how many.

Weights lie cut over fsdp and sequence; each block's are gathered in the compute dtype when it runs, and again when it is
rematerialised; their gradients are summed and cut in the same groups, then summed over data.  Attention over a cut sequence
trades tokens for heads (`model.sequence`).  Routing sends nothing: its groups are local.
"""

import math
from typing import NamedTuple

from motif_jax.budget.memory import WIDE, parameters
from motif_jax.budget.workload import Split, Tokens, kept
from motif_jax.compiled import Collective
from motif_jax.config import Config
from motif_jax.model.plan import Segment
from motif_jax.sharding import spec_of

GRADIENT = WIDE  # bytes in which gradients travel: reductions are float32 (recipe.md section 2)


class Message(NamedTuple):
  """A `Collective` of a block: so often in its forward pass, and in its backward pass with what that repeats."""

  what: str
  kind: str
  bytes: int
  group: int
  forward: int
  backward: int


def step_traffic(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int) -> dict[str, list[Collective]]:
  """Of one device with `rows` samples of the batch, by purpose; groups of one send nothing and are left out."""
  micro = rows / split.accumulate
  parts = {"weights": _weights(cfg, plan, split), "gradients": _gradients(cfg, plan, split),
           "sequence": [c for segment in plan for c in _sequence(cfg, segment, tokens, split, micro)]}
  times = lambda c: c._replace(count=c.count * split.accumulate)
  return {name: _merged(map(times, found)) for name, found in parts.items() if any(c.group > 1 for c in found)}


def sent(traffic: dict[str, list[Collective]]) -> dict[str, float]:
  """Bytes that a device sends in a step, by purpose."""
  return {name: sum(c.sent for c in found) for name, found in traffic.items()}


def _sizes(cfg, kind):
  """(cut, whole): parameters of one block of a kind, or of all that is no block, by whether the table cuts them."""
  depth = getattr(cfg.model.depths, kind) if kind else 1
  kinds = tuple(f"{k}/" for k in ("dual", "single", "decoder"))
  cut, whole = 0, 0
  for path, shape in parameters(cfg).items():
    if path.startswith(f"{kind}/") if kind else not path.startswith(kinds):
      size = math.prod(shape) // depth
      cut, whole = (cut + size, whole) if any(spec_of(path, shape)) else (cut, whole + size)
  return cut, whole


def _weights(cfg, plan, split):
  narrow = 2 if cfg.model.dtype == "bfloat16" else WIDE
  again = 1 + (cfg.model.remat != "none")
  blocks = [Collective("all-gather", _sizes(cfg, s.kind)[0] * narrow, (s.stop - s.start) * again, split.state) for s in plan]
  return blocks + [Collective("all-gather", _sizes(cfg, None)[0] * narrow, 1, split.state)]


def _gradients(cfg, plan, split):
  found = []
  for kind, count in [(s.kind, s.stop - s.start) for s in plan] + [(None, 1)]:
    cut, whole = _sizes(cfg, kind)
    found += [Collective("reduce-scatter", cut * GRADIENT, count, split.state),
              Collective("all-reduce", cut * GRADIENT // split.state, count, split.data),
              Collective("all-reduce", whole * GRADIENT, count, split.devices)]
  return found


def _sequence(cfg, segment, tokens, split, rows):
  """Of the blocks of a segment: each message forward, again where it is recomputed, and transposed in the backward pass."""
  if segment.final:
    whole, last = segment._replace(stop=segment.stop - 1, final=False), segment._replace(start=segment.stop - 1, final=False)
    return _blocks(cfg, whole, tokens, split, rows) + _blocks(cfg, last, tokens, split, rows, final=True)
  return _blocks(cfg, segment, tokens, split, rows)


def _blocks(cfg, segment, tokens, split, rows, *, final=False):
  seen, blocks = kept(cfg, tokens) if segment.routed else tokens, segment.stop - segment.start
  return [Collective(m.kind, m.bytes, (m.forward + m.backward) * blocks, m.group)
          for m in messages(cfg, segment.kind, seen, split, rows, final=final)]


def messages(cfg: Config, kind: str, tokens: Tokens, split: Split, rows: float, *, final: bool = False) -> list[Message]:
  """What one block of a kind sends along the sequence, for `rows` samples of a device.

  `final`: nobody reads the half of the result that is not the first segment's, so it has keys and values and no more.
  """
  model = cfg.model
  width = round(rows * model.width * (2 if model.dtype == "bfloat16" else WIDE))  # of one token
  video = (2 if kind == "decoder" else 1) * tokens.video // split.sequence
  context = 0 if kind == "decoder" else tokens.context
  again = int(model.remat != "none")
  # With attention's output saved it is not sent again, unless cuDNN's own output was, which lies before the exchange.
  resent = int(model.remat in ("block", "offload") or (model.remat == "attention" and model.attention == "cudnn"))
  asking = video // 2 if final and kind == "decoder" else video
  answered = 0 if final else context
  keys = 2 * video * split.sequence * width // split.heads
  found = [
      # Queries, keys and values in one message.
      Message("tokens into heads", "all-to-all", 3 * asking * width, split.heads, 1, again + 1),
      Message("tokens into heads", "all-to-all", 2 * (video - asking) * width, split.heads, 1, again + 1),
      Message("heads into tokens", "all-to-all", asking * width, split.heads, 1, resent + 1),
      Message("keys and values", "all-gather", keys, split.keys, 1, again),
      Message("keys and values", "reduce-scatter", keys, split.keys, 0, 1),
      Message("text", "all-gather", answered * width, split.heads, 1, resent),  # each device attends for its heads of the text
      Message("text", "reduce-scatter", answered * width, split.heads, 0, 1),
      Message("text", "all-reduce", context * width, split.sequence, 0, 2 if final else 3),  # of its q, k, v
  ]
  if model.cross_attention.kind != "none" and kind == "single":
    found.append(Message("text", "all-reduce", tokens.text * width, split.sequence, 0, 2))  # of the keys and values
  return found


def _merged(found):
  """Equal collectives counted together, what sends most first; none of a group of one, none that is empty."""
  counts = {}
  for c in found:
    if c.group > 1 and c.bytes:
      counts[c.kind, c.bytes, c.group] = counts.get((c.kind, c.bytes, c.group), 0) + c.count
  return sorted((Collective(kind, size, count, group) for (kind, size, group), count in counts.items()), key=lambda c: -c.sent)
