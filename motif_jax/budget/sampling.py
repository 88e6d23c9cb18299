"""Bytes that one device holds while it samples, in closed form, phase by phase: texts, latents, frames (`motif_jax/pipeline.py`).

Weights are exact.  What is alive beside them was read from the compiler's plans on CPU (the text encoder at 16 texts of 512
tokens; the network without logits, at 2,048 to 4,096 tokens; the decoder of the VAE at the released width, whose plan grows with
the pixels of a frame and not with the number of frames) and is an estimate elsewhere.
"""

import dataclasses
import math

import jax

from motif_jax.budget import memory
from motif_jax.budget.devices import USABLE, Device
from motif_jax.budget.memory import WIDE, Kept
from motif_jax.budget.workload import Split, Tokens, make_split
from motif_jax.config import BucketConfig, Config
from motif_jax.encoders import t5gemma2, wan_network

FORWARD = Kept(1, 8, 1)  # widths per token of the block with the most of them, in a forward pass
LOGITS = 2  # float32 arrays of logits' size that "xla" holds
TEXTS, PER_TEXT_TOKEN = 16 * 512, 66_000  # tokens encoded at once, and bytes of each
PER_PIXEL = {"bfloat16": 12_600, "float32": 18_100}  # bytes that the VAE's decoder holds for each pixel of a frame
VIDEO = 3 * (WIDE + 1)  # bytes for each pixel of a video: float32, and the uint8 made of it


def phases(cfg: Config, bucket: BucketConfig, tokens: Tokens, split: Split, rows: int, *, weights: str) -> dict[str, dict]:
  """Phase -> part -> bytes of one device that makes `rows` videos at once; weights of the network in the dtype `weights`.

  Texts and frames are the released encoders', where the config names them; those without weights take next to nothing.
  """
  found = {"texts": texts(cfg, split), "latents": network(cfg, tokens, split, rows, weights=weights),
           "frames": frames(cfg, bucket, split, rows)}
  return {name: parts for name, parts in found.items() if parts}


def texts(cfg: Config, split: Split) -> dict[str, float]:
  """Part -> bytes of one device while texts are encoded by the released encoder; {} for others."""
  if not cfg.encoders.text.startswith("t5gemma2"):
    return {}
  return {"weights": 2 * _count(t5gemma2.RELEASED) / split.state, "alive": TEXTS * PER_TEXT_TOKEN / split.batch}


def frames(cfg: Config, bucket: BucketConfig, split: Split, rows: int) -> dict[str, float]:
  """Part -> bytes of one device while it decodes `rows` videos at once by the released VAE; {} for other codecs."""
  if cfg.encoders.codec != "wan_vae":
    return {}
  pixels, codec = rows * bucket.height * bucket.width, wan_network.WanConfig()
  size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(wan_network.abstract(codec)))
  return {"weights": 2 * size / split.state, "alive": pixels * PER_PIXEL[codec.dtype] / split.sequence,
          "videos": pixels * bucket.frames * VIDEO}


def network(cfg: Config, tokens: Tokens, split: Split, rows: int, *, weights: str) -> dict[str, float]:
  """Part -> bytes of one device while latents are sampled: weights, one block at work, its weights gathered, latents."""
  model, guidance = cfg.model, cfg.sample.guidance
  passes = rows * (2 if guidance.together else 1)
  kind = "decoder" if model.depths.decoder else "single" if model.depths.single else "dual"
  video, others = memory._lengths(kind, tokens, split)
  alive = memory._widths(model, FORWARD) * (video + others)
  if model.attention == "xla":
    alive += LOGITS * WIDE * memory._logits(model, kind, tokens, split)
  sizes = memory.parameters(dataclasses.replace(cfg, alignment=dataclasses.replace(cfg.alignment, weight=0.0)))
  held = sum(memory.held(path, shape, split.state) for path, shape in sizes.items())
  latents = tokens.video * math.prod(model.patch) * model.latent_channels
  return {"weights": held * {"bfloat16": 2, "float32": WIDE}[weights], "one block": passes * alive,
          "block weights": memory.block_parameters(cfg, kind) * memory._dtype_bytes(model) * (split.state > 1),
          "latents": WIDE * (6 * rows + 4 * passes) * latents}


def total(parts: dict[str, float]) -> float:
  """Bytes of a phase."""
  return sum(parts.values())


def nearest_fit(cfg: Config, tokens: Tokens, split: Split, rows: int, device: Device, *, weights: str) -> str | None:
  """The mildest change with which `rows` videos at once can be sampled on each device, as flags; None if none known is enough.

  Tried in this order: fewer videos at once, both passes of guidance in turn, attention without logits, tokens over 2, 4 or 8
  devices of a sequence axis.
  """
  fits = lambda changed, divided, count: total(
      network(changed, tokens, divided, count, weights=weights)) <= USABLE * device.memory
  in_turn = dataclasses.replace(cfg, sample=dataclasses.replace(
      cfg.sample, guidance=dataclasses.replace(cfg.sample.guidance, together=False)))
  fused = dataclasses.replace(in_turn, model=dataclasses.replace(in_turn.model, attention="cudnn"))
  changes = [("--batch=1", cfg, split, 1), ("--batch=1 --together=0", in_turn, split, 1),
             ("--batch=1 --together=0 and model.attention=cudnn", fused, split, 1)]
  for degree in (2, 4, 8):
    cut = make_split((split.data, split.fsdp, degree), cfg.model.heads)
    changes.append((f"--batch=1 --together=0 --mesh={split.data}x{split.fsdp}x{degree}, {degree} devices a video", fused, cut, 1))
  return next((flags for flags, *change in changes if fits(*change)), None)


def nearest_texts(cfg: Config, split: Split, device: Device) -> str | None:
  """The fewest devices over which the text encoder can be cut to fit, as a flag; None if 8 are not enough."""
  return next((f"--mesh={split.data}x{degree}x{split.sequence}" for degree in (2, 4, 8) if total(
      texts(cfg, dataclasses.replace(split, fsdp=degree))) <= USABLE * device.memory), None)


def nearest_frames(cfg: Config, bucket: BucketConfig, split: Split, device: Device) -> str | None:
  """The mildest change with which a video can be decoded on each device, as flags: one at a time, its columns over 2, 4 or 8."""
  meshes = [(f"--batch=1 --mesh={split.data}x{split.fsdp}x{degree}", dataclasses.replace(split, sequence=degree))
            for degree in (2, 4, 8)]
  return next((flags for flags, cut in [("--batch=1", split), *meshes] if total(
      frames(cfg, bucket, cut, 1)) <= USABLE * device.memory), None)


def _count(text):
  shapes = jax.eval_shape(lambda key: t5gemma2.init(key, text), jax.random.key(0))
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
