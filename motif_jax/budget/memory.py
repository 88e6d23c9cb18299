"""Bytes that one device holds in a training step, in closed form.

The state is exact: sizes and splits come from the sharding table.  Activations are counted in widths (one number for each token
and feature), in logits (one for each head, query and key) and in passes over them.  The counts of what the backward pass keeps
are those of the blocks' own derivative; what is alive inside one block at the worst moment is the compiler's doing: those
counts were read from its plans on CPU in float32, where they come out within about 15 % of the whole, and are an estimate
elsewhere (a GPU's compiler fuses more, so expect less).  One case they miss: clips of a few hundred tokens through the decoder
(CPU plans a third more).
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax

from motif_jax import sharding
from motif_jax.budget.workload import Split, Tokens, kept
from motif_jax.config import Config, ModelConfig
from motif_jax.model import alignment, lora, transformer
from motif_jax.model.attention import CHUNK
from motif_jax.model.plan import Segment

WIDE = 4  # bytes of float32
# The matrices that Muon moves with one moment each; everything else has AdamW's two (`train.optimizer`).
MUON = rf"{sharding.STACK}/((attention|cross)/(query|key|value|out)|mlp/(up|down))/kernel"


class Kept(NamedTuple):
  """Widths per token of a block: in float32, in the compute dtype, and of the MLP's hidden layer, mlp_ratio widths each."""

  wide: float
  narrow: float
  hidden: float


# What the derivative of a block keeps without rematerialisation: its norms, rotations and modulated inputs in float32; queries,
# keys and values before and after the concatenation and the input in the compute dtype; the GELU's parts.
SAVED = {"dual": Kept(14, 6, 6), "single": Kept(10, 5, 6), "decoder": Kept(10, 5, 6)}
SAVED_UNREAD = Kept(5, 3, 0)  # of a token with keys and values and no more, in the last block of a final segment
SAVED_BY_CROSS = Kept(6, 3, 0)  # per video token
# What is alive in the backward pass of one block at its worst moment, beside the logits (measured, see above).
ALIVE = {"dual": Kept(18, 10, 2), "single": Kept(11, 7, 2), "decoder": Kept(11, 7, 2)}
LOGITS_SAVED = 2  # float32 arrays of logits' size that "xla" keeps: exponentials and weights, the latter rounded too
LOGITS_ALIVE = 4  # of one block in the backward pass: weights, their gradient, the logits', and one in the making


def parameters(cfg: Config) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter, by the names that the sharding table knows."""
  model = dataclasses.replace(cfg.model, attention="xla", remat="none")  # neither has parameters, and cuDNN asks for a GPU
  return _shapes(model, cfg.alignment if cfg.alignment.weight else None)


@functools.cache
def _shapes(model, aligned):
  tree = {"model": jax.eval_shape(lambda key: transformer.init(key, model), jax.random.key(0))}
  if aligned:
    tree["projector"] = jax.eval_shape(lambda key: alignment.init_projector(key, aligned, model.width), jax.random.key(0))
  return {sharding.parameter_name(path): leaf.shape for path, leaf in sharding.paths_of(tree)}


def network_size(cfg: Config) -> int:
  """Numbers in the parameters of the network, without the projector that training alone has."""
  return sum(math.prod(shape) for path, shape in parameters(cfg).items() if not path.startswith("projector/"))


def adapters(cfg: Config) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every factor of the adapter; empty where the whole network is trained."""
  model, adapter = dataclasses.replace(cfg.model, attention="xla", remat="none"), cfg.adapter
  return _factors(model, adapter.rank, adapter.targets) if adapter.rank else {}


@functools.cache
def _factors(model, rank, targets):
  tree = jax.eval_shape(lambda key: lora.init(key, model, rank=rank, targets=targets), jax.random.key(0))
  return {path: leaf.shape for path, leaf in sharding.paths_of(tree)}


def held(path: str, shape: tuple[int, ...], parts: int) -> int:
  """Numbers that one device holds of a parameter."""
  split = any(sharding.fitted_spec(path, shape, parts))
  return math.prod(shape) // (parts if split else 1)


def state_bytes(cfg: Config, split: Split) -> dict[str, int]:
  """Of one device: what a checkpoint holds and the gradients, all in float32; and the network that an adapter leaves as it is."""
  every = {path: held(path, shape, split.state) for path, shape in parameters(cfg).items()}
  of = {path: held(path, shape, split.state) for path, shape in adapters(cfg).items()} or every
  weights = sum(of.values())
  average = sum(size for path, size in of.items() if not path.startswith("projector/"))
  moments = sum(size * moments_of(cfg, path) for path, size in of.items())
  gradients = weights * (2 if split.accumulate > 1 else 1)  # of this microbatch, and the sum
  state = dict(parameters=weights, average=average, optimizer=moments, gradients=gradients)
  frozen = sum(size * (_dtype_bytes(cfg.model) if path.endswith("/kernel") else WIDE) for path, size in every.items())
  return {name: WIDE * size for name, size in state.items()} | ({"frozen": frozen} if cfg.adapter.rank else {})


def moments_of(cfg: Config, path: str) -> int:
  """How many moments the optimizer keeps of the parameter at `path`."""
  return 1 if cfg.optimizer.kind == "muon" and re.fullmatch(MUON, path) else 2


def muon_matrices(cfg: Config) -> list[tuple[int, int]]:
  """(rows, columns) of each matrix that Muon moves, every layer's its own; heads count as columns, in the way out as rows."""
  found = []
  for path, shape in parameters(cfg).items():
    if re.fullmatch(MUON, path):
      columns = shape[-1] if path.endswith("out/kernel") else math.prod(shape[2:])
      found += [(math.prod(shape[1:]) // columns, columns)] * shape[0]
  return found


def block_parameters(cfg: Config, kind: str) -> int:
  """Of one block of a kind."""
  return sum(math.prod(shape) for path, shape in parameters(cfg).items() if path.startswith(f"{kind}/")) // getattr(
      cfg.model.depths, kind)


def step_bytes(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int) -> dict[str, float]:
  """Of one device that has `rows` samples of a batch: by name, what adds up at the worst moment of a step.

  That moment is in the backward pass of a block: all that was kept is still there, and so is what this block computes.
  """
  micro = rows / split.accumulate
  return state_bytes(cfg, split) | activation_bytes(cfg, tokens, plan, split, micro) | {
      "block weights": _block_weights(cfg, plan, split), "batch": _batch(cfg, tokens, split) * rows}


def activation_bytes(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: float) -> dict[str, float]:
  """Of one device with `rows` samples in a microbatch: kept for the backward pass, and alive in the worst block."""
  saved, attended, alive, last = 0.0, 0.0, 0.0, plan[-1]
  # The last block's turn in the backward pass is the first; what it kept is gone when a larger one's comes.
  first = _alive(cfg.model, last.kind, tokens, split, final=last.final)
  gone = _saved(cfg.model, last.kind, tokens, split, final=last.final) if cfg.model.remat == "none" else 0
  for segment in plan:
    seen = kept(cfg, tokens) if segment.routed else tokens
    blocks = segment.stop - segment.start
    saved += blocks * _between(cfg.model, segment.kind, seen, split)
    if cfg.model.remat == "none":
      saved += (blocks - segment.final) * _saved(cfg.model, segment.kind, seen, split)
      saved += segment.final * _saved(cfg.model, segment.kind, seen, split, final=True)
    if cfg.model.remat == "attention":
      attended += blocks * _attended(cfg.model, segment.kind, seen, split)
    alive = max(alive, _alive(cfg.model, segment.kind, seen, split) - gone, first)
  saved *= cfg.model.remat != "offload"
  width = _dtype_bytes(cfg.model) * cfg.model.width
  bypassed = (tokens.video - kept(cfg, tokens).video) if any(s.routed for s in plan) else 0
  outside = (tokens.video + bypassed) / split.sequence * width  # the decoder's input waits from the start; so do bypassed tokens
  return {"kept for backward": rows * saved, "attention kept": rows * attended, "one block": rows * alive,
          "outside blocks": rows * outside}


def host_bytes(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split, rows: int) -> float:
  """Of the host's memory for one device: the tokens that remat "offload" puts there."""
  if cfg.model.remat != "offload":
    return 0.0
  of = lambda s: (s.stop - s.start) * _between(cfg.model, s.kind, kept(cfg, tokens) if s.routed else tokens, split)
  return rows / split.accumulate * sum(map(of, plan))


def _lengths(kind, tokens, split):
  """(video, others) of a sample that one device holds: the decoder's other half is the encoder's video, cut like it."""
  video = tokens.video / split.sequence
  return video, video if kind == "decoder" else tokens.context


def _between(cfg, kind, tokens, split):
  """The tokens that enter a block."""
  return sum(_lengths(kind, tokens, split)) * cfg.width * _dtype_bytes(cfg)


def _attended(cfg, kind, tokens, split):
  """Attention's outputs; cuDNN's log-sum-exp is one float32 for each head."""
  video, others = _lengths(kind, tokens, split)
  queries = video + others + (video if _has_cross(cfg, kind) else 0)
  return queries * (cfg.width * _dtype_bytes(cfg) + (WIDE * cfg.heads if cfg.attention == "cudnn" else 0))


def _saved(cfg, kind, tokens, split, *, final=False):
  video, others = _lengths(kind, tokens, split)
  cross = _widths(cfg, SAVED_BY_CROSS) * video if _has_cross(cfg, kind) else 0
  logits = 0
  if cfg.attention == "xla":
    narrow = 0 if _dtype_bytes(cfg) == WIDE else _dtype_bytes(cfg)
    logits = (LOGITS_SAVED * WIDE + narrow) * _logits(cfg, kind, tokens, split, final=final)
  return _widths(cfg, SAVED[kind]) * video + _widths(cfg, SAVED_UNREAD if final else SAVED[kind]) * others + cross + logits


def _alive(cfg, kind, tokens, split, *, final=False):
  arrays = LOGITS_ALIVE - (cfg.remat == "none")
  logits = _logits(cfg, kind, tokens, split, final=final)
  return _widths(cfg, ALIVE[kind]) * sum(_lengths(kind, tokens, split)) + arrays * WIDE * logits


def _widths(cfg, count):
  """Bytes per token."""
  narrow = _dtype_bytes(cfg)
  return cfg.width * (WIDE * count.wide + narrow * (count.narrow + cfg.mlp_ratio * count.hidden))


def _logits(cfg, kind, tokens, split, *, final=False):
  """Numbers in one array of logits; "chunked" has those of CHUNK queries at a time, and fused kernels none."""
  video, keys = (2 * tokens.video, 2 * tokens.video) if kind == "decoder" else (tokens.video, tokens.video + tokens.context)
  queries = video / split.keys + (0 if kind == "decoder" else tokens.context)
  if final:
    queries = tokens.video / split.keys
  limit = {"xla": queries, "chunked": min(CHUNK, queries), "cudnn": 0, "tokamax": 0}[cfg.attention]
  return limit * keys * cfg.heads / split.heads


def size(count: float) -> str:
  """Bytes for people."""
  unit = next((u for u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= u[0]), (1, "B"))
  return f"{count / unit[0]:.3g} {unit[1]}"


def _has_cross(cfg: ModelConfig, kind: str) -> bool:
  return cfg.cross_attention.kind != "none" if kind == "single" else kind == "dual" and cfg.cross_attention.dual


def _block_weights(cfg, plan, split):
  """Of the block at work: weights in the compute dtype, gathered, and their gradient before it is cut.  Without rematerialisation
  copies of all blocks wait for the backward pass.  A compiler that gathers the next block's early holds one copy more."""
  narrow = _dtype_bytes(cfg.model)
  sizes = {segment.kind: block_parameters(cfg, segment.kind) for segment in plan}
  copies = narrow if split.state > 1 or narrow < WIDE else 0
  everything = sum(sizes[s.kind] * (s.stop - s.start) for s in plan) * narrow if cfg.model.remat == "none" else 0
  return max(sizes.values()) * (copies + (0 if cfg.adapter.rank else WIDE)) + everything


def _batch(cfg, tokens, split):
  """Of one sample: latents, noise, their mixture and target in float32, and the text; latents are not cut along the sequence."""
  latents = tokens.video * math.prod(cfg.model.patch) * cfg.model.latent_channels
  return WIDE * (5 * latents + 2 * tokens.text * cfg.model.text_dim)


def _dtype_bytes(cfg):
  return {"float32": 4, "bfloat16": 2}[cfg.dtype]
