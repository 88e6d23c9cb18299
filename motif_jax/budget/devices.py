"""What fits on which device: memory against bytes, the largest batch, what dominates, and the nearest change that would fit."""

import dataclasses
import difflib
from typing import NamedTuple

from motif_jax.budget import flops, memory
from motif_jax.budget.workload import Split, Tokens, make_split
from motif_jax.config import Config
from motif_jax.config_rules import CHOICES
from motif_jax.mesh import AXES
from motif_jax.model.plan import Segment

# Of a device's memory; the rest is for the driver's context, NCCL's buffers, cuDNN's workspaces and fragmentation.  An
# assumption: measure it on the machine at hand.
USABLE = 0.92


@dataclasses.dataclass(frozen=True)
class Device:
  """Peak figures of one device, by its maker's data sheet."""

  memory: float  # bytes
  flops: float  # per second, bfloat16 with float32 sums, dense
  link: float  # bytes per second and direction to the devices of its node
  network: float  # bytes per second and direction to other nodes
  node: int = 8  # devices in a node


DEVICES = {
    # NVIDIA H100 data sheet (SXM): 80 GB, 1,979 TFLOP/s bfloat16 with sparsity, so half of it dense; NVLink 900 GB/s both ways.
    # DGX H100 data sheet: a ConnectX-7 of 400 Gb/s for each GPU.
    "h100": Device(80e9, 989.5e12, 450e9, 50e9),
    # NVIDIA H200 data sheet (SXM): 141 GB; the chip, NVLink and DGX network of the H100.
    "h200": Device(141e9, 989.5e12, 450e9, 50e9),
    # NVIDIA A100 data sheet (80 GB SXM): 312 TFLOP/s bfloat16 dense, NVLink 600 GB/s both ways.  DGX A100 data sheet: 200 Gb/s
    # for each GPU.
    "a100-80": Device(80e9, 312e12, 300e9, 25e9),
}


def device_of(kind: str) -> Device:
  """The device of that kind; ValueError with the known ones."""
  if kind not in DEVICES:
    close = difflib.get_close_matches(kind, DEVICES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"device kind {kind!r} is not known; known kinds: {', '.join(DEVICES)}.{hint}")
  return DEVICES[kind]


def check_share(utilisation: float) -> None:
  """Raises ValueError unless it is a share."""
  if not 0 < utilisation <= 1:
    raise ValueError(f"utilisation {utilisation} must be a share of the device's peak in (0, 1]; 0.3 to 0.5 is usual.")


def total(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int) -> float:
  """Bytes of one device in a step."""
  return sum(memory.step_bytes(cfg, tokens, plan, split, rows).values())


def largest_rows(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, device: Device) -> int:
  """The most samples that a device can have in a step, each microbatch taking an equal share; 0 if not even one fits."""
  fits = lambda micro: total(cfg, tokens, plan, split, micro * split.accumulate) <= USABLE * device.memory
  if not fits(1):
    return 0
  high = 2
  while fits(high) and high < 1 << 20:
    high *= 2
  low = high // 2
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low * split.accumulate


class Policy(NamedTuple):
  """A policy of rematerialisation, and what a step costs a device under it."""

  name: str  # of `model.stack.REMAT`
  bytes: float
  flops: float
  fits: bool


def policies(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int, device: Device) -> list[Policy]:
  """Every `Policy`, from the one that keeps most and repeats least: the first that fits is the fastest.

  "offload" repeats as much as "block" and moves tokens to the host besides, so it stands behind it.
  """
  found = []
  for name in CHOICES["model.remat"]:  # they stand in order of strength
    changed = _with(cfg, remat=name)
    need = total(changed, tokens, plan, split, rows)
    work = rows * sum(part.total for part in flops.executed(changed, tokens, plan, split).values())
    found.append(Policy(name, need, work, need <= USABLE * device.memory))
  return found


def dominant(parts: dict[str, float]) -> str:
  """The largest of `parts` and its share: "one block (52 %)"."""
  name = max(parts, key=parts.get)
  return f"{name} ({100 * parts[name] / sum(parts.values()):.0f} %)"


def nearest_fit(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int, device: Device, *,
                least: int = 0) -> str | None:
  """The mildest change with which `rows` samples per device fit, as a flag to set; None if none of the known ones is enough.

  Tried in this order: attention without logits; a microbatch for each sample; state cut over fsdp instead of copied along data,
  inside a node; stronger rematerialisation; these together; where `data.batch_tokens` made the batch larger, fewer tokens, but
  `least`; more of the devices along sequence, from fsdp or from data; state cut over fsdp between nodes.
  """
  fits = lambda changed, divided, count: total(changed, tokens, plan, divided, count) <= USABLE * device.memory
  flags = next((flags for flags, *change in _changes(cfg, split, rows, tokens, device, least) if fits(*change)), None)
  so_already = (f"--config.model.attention={cfg.model.attention}", f"--config.train.accumulate={split.accumulate}")
  return flags and " ".join(flag for flag in flags.split() if flag not in so_already)


def _changes(cfg, split, rows, tokens, device, least):
  """(flags, config, split, rows per device), from mild to strong."""
  base = cfg.data.batch_size // split.batch if cfg.data.batch_tokens else rows  # a batch of any bucket can be cut into so many
  fused, one_by_one = _with(cfg, attention="cudnn"), dataclasses.replace(split, accumulate=base)
  stronger = CHOICES["model.remat"][CHOICES["model.remat"].index(cfg.model.remat) + 1:]  # they stand in order of strength
  attention, microbatches = "--config.model.attention=cudnn", f"--config.train.accumulate={base}"
  spread = [(split.data // f, split.fsdp * f, split.sequence) for f in (2, 4, 8) if split.data % f == 0]
  inside = [sizes for sizes in spread if sizes[1] * sizes[2] <= device.node]
  cut = lambda sizes, accumulate: make_split(sizes, cfg.model.heads, accumulate=accumulate)
  yield attention, fused, split, rows
  yield microbatches, cfg, one_by_one, rows
  for sizes in inside:
    yield _mesh(split, sizes), cfg, cut(sizes, split.accumulate), rows
  for name in stronger:
    yield f"--config.model.remat={name}", _with(cfg, remat=name), split, rows
  yield f"{attention} {microbatches}", fused, one_by_one, rows
  for name in stronger:
    yield f"{attention} {microbatches} --config.model.remat={name}", _with(fused, remat=name), one_by_one, rows
  for sizes in inside:
    yield f"{attention} {microbatches} {_mesh(split, sizes)}", fused, cut(sizes, base), rows
  for batches in range(rows // base - 1, 0, -1):
    if (held := batches * cfg.data.batch_size * tokens.video) >= least:
      yield f"--config.data.batch_tokens={held}", cfg, split, batches * base
  for sizes in _along_sequence(cfg, split, tokens):
    factor = sizes[2] // split.sequence  # fewer devices share the batch
    flags = f"{_mesh(split, sizes)} --config.train.accumulate={base * factor}"
    yield flags, cfg, cut(sizes, base * factor), rows * factor
    yield f"{attention} {flags}", fused, cut(sizes, base * factor), rows * factor
  for sizes in spread[len(inside):]:
    yield f"{attention} {microbatches} {_mesh(split, sizes)}", fused, cut(sizes, base), rows


def _along_sequence(cfg, split, tokens):
  """Meshes of as many devices with 2, 4 or 8 times as many along sequence, by which tokens and the groups of a route divide."""
  degrees = [f for f in (2, 4, 8) if tokens.video % (split.sequence * f) == 0
             and (cfg.route.keep == 1 or cfg.route.groups % (split.sequence * f) == 0)]
  return [(split.data, split.fsdp // f, split.sequence * f) for f in degrees if split.fsdp % f == 0] + [
      (split.data // f, split.fsdp, split.sequence * f) for f in degrees if split.data % f == 0]


def within_nodes(split: Split, device: Device) -> str | None:
  """The flags with which fsdp and sequence lie inside nodes, and data across; None where sequence alone does not."""
  if split.devices % device.node or device.node % split.sequence:
    return None
  return _mesh(split, (split.devices // device.node, device.node // split.sequence, split.sequence))


def _mesh(split, sizes):
  """The flags that make a mesh of these sizes of that of `split`."""
  given = zip(AXES, (split.data, split.fsdp, split.sequence), sizes)
  return " ".join(f"--config.mesh.{axis}={size}" for axis, before, size in given if size != before)


def _with(cfg, **model):
  return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **model))
