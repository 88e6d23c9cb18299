"""Where attention goes, block by block: to other latent frames, to the text; and how much the text writes (docs/attention.md).

Softmax rows are never held for all queries: a chunk of them at a time, summed over keys of one kind as soon as they are made.  A
forward pass at the length of the released model's sequences can so be looked into on the device that runs it.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from motif_jax import sample
from motif_jax.config import ModelConfig
from motif_jax.evaluate.subject import Subject, in_batches, latents
from motif_jax.flow import path
from motif_jax.model import transformer
from motif_jax.model.conditioning import network_input
from motif_jax.model.stack import kinds_of
from motif_jax.train import telemetry

CHUNK = 128  # queries at once


class Keys(NamedTuple):
  """The keys of one segment, cut into equal groups."""

  keys: Array  # (B, S, N, dh)
  mask: Array | None  # (B, S), True = may be attended; None = all
  groups: int  # latent frames of video; 1 for text and image


def of_block(block_calls: list, *, frames: int) -> dict[str, Array]:
  """Name -> (B,) float32: means over heads and queries of where the attention of one block goes, from the calls in it.

  Queries are the video's tokens; in a decoder block, whose two segments both are video, those of the decoder's segment, which
  alone reaches the output.
  other_frames: of the attention on video keys, the share on keys of another latent frame than the query's.  Decoder blocks have
  two keys for each place, the decoder's and the encoder's, and both count to the frame of the place, so that uniform attention
  is (T - 1) / T in every block.
  text: of all attention, the share on text; in blocks that attend to text.  image: on image tokens, where there are any.
  encoder: in decoder blocks, the share on the encoder's keys; uniform attention is 1 / 2.
  """
  masks = block_calls[-1].inputs[1]  # the last call to end is that of the block itself: (tokens, masks, cond, rope)
  heads = [call.outputs for call in block_calls if call.path.endswith("attention")]
  decoder = masks[-1] is None  # `measure` gives the text a mask, and text is the last segment wherever there is any
  groups = [frames if i == 0 or decoder else 1 for i in range(len(heads))]
  segments = [Keys(k, mask, count) for (_, k, _), mask, count in zip(heads, masks, groups, strict=True)]
  videos = 2 if decoder else 1

  def of_rows(shares, frame):
    """Name -> (B, N, C), from the shares (B, N, C, groups) of queries in `frame` (C,)."""
    of_video = shares[..., :videos * frames].reshape(*shares.shape[:-1], videos, frames)
    whole = jnp.sum(of_video, axis=(-2, -1))
    other = jnp.where(jnp.arange(frames) == frame[:, None, None], 0, of_video)
    made = {"other_frames": jnp.sum(other, axis=(-2, -1)) / whole}
    if decoder:
      return made | {"encoder": jnp.sum(of_video[..., 1, :], axis=-1)}
    names = ("image", "text") if len(segments) == 3 else ("text",)
    return made | {name: shares[..., frames + i] for i, name in enumerate(names)}

  return mean_over_queries(of_rows, heads[0][0], segments, frames=frames)


def mean_over_queries(of_rows, queries: Array, segments: Sequence[Keys], *, frames: int) -> dict[str, Array]:
  """Name -> (B,), the mean over heads and `queries` (B, L, N, dh) of what `of_rows` makes of their softmax rows.

  `of_rows`: (shares (B, N, C, groups) of the attention of C queries by group of keys, all segments in turn; the frame (C,) of
  each query) -> name -> (B, N, C).
  """
  batch, length, heads, width = queries.shape
  size = min(CHUNK, length)
  count = -(-length // size)
  padded = jnp.pad(queries, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
  places = np.arange(count * size).reshape(count, size)

  def of_chunk(chunk):
    q, place = chunk  # (B, C, N, dh), (C,)
    shares = jax.nn.softmax(jnp.concatenate([_log_sums(q, segment) for segment in segments], axis=-1), axis=-1)
    values = of_rows(shares, place * frames // length)
    return {name: jnp.sum(jnp.where(place < length, value, 0), axis=(1, 2)) for name, value in values.items()}

  chunks = jnp.moveaxis(padded.reshape(batch, count, size, heads, width), 1, 0)
  sums = jax.lax.map(of_chunk, (chunks, places))
  return {name: jnp.sum(value, axis=0) / (heads * length) for name, value in sums.items()}


def _log_sums(q, segment):
  """(B, N, C, groups): the logarithm of each group's sum of exp(logits), float32."""
  keys, mask, groups = segment
  logits = jnp.einsum("bcnd,bsnd->bncs", q, keys, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
  if mask is not None:
    logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
  return jax.nn.logsumexp(logits.reshape(*logits.shape[:-1], groups, -1), axis=-1)


@functools.partial(jax.jit, static_argnames=("model",))
def measure(params: dict, inputs: Array, t: Array, text: Array, text_mask: Array, image: Array | None = None, *,
            model: ModelConfig) -> dict[str, dict[str, Array]]:
  """Kind of block -> name -> (B, blocks): `of_block`, and of `telemetry.of_block` what the cross-attention writes.

  `inputs` (B, F, H, W, 2C + 1) at time t (B,), as `transformer.apply` takes them.
  """
  frames = inputs.shape[1] // model.patch[0]

  def of(layer, before, after, calls):
    told = telemetry.of_block(layer, before, after, calls)
    return of_block(calls, frames=frames) | {name: told[name] for name in ("cross_write", "cross_share") if name in told}

  # The same numbers to rounding; the plain backend would hold all logits at once, which is what this file is to avoid.
  model = dataclasses.replace(model, attention="chunked") if model.attention == "xla" else model
  return transformer.apply(params, model, inputs, t, text, text_mask=text_mask, image=image, measure=of)[1].measured


def look(subject: Subject, times: Sequence[float]) -> dict:
  """What `measure` says of videos that the model itself makes for the prompts, noised to each of `times`.

  Means over the prompts.  {tokens, frames, text_tokens, uniform: name -> value under uniform attention, rows: [{t, block, kind,
  name: value}]}.
  """
  model, data = subject.cfg.model, latents(subject)
  noise = sample.initial_noise(jax.random.fold_in(subject.key, 1), np.arange(len(data)), data.shape[1:])
  text, mask = subject.encoded(subject.prompts)
  rows = []
  for t in times:
    parts = []
    for now, _ in in_batches(len(data), subject.batch):
      at = jnp.full(len(now), t, jnp.float32)
      noisy = path.interpolate(data[now], noise[now], at[:, None, None, None, None])
      inputs = network_input(noisy, jnp.zeros_like(data[now, None, 0]), at, jnp.zeros(len(noisy), bool))
      parts.append(jax.device_get(measure(subject.params, inputs, at, text[now], mask[now], model=model)))
    rows += [dict(t=float(t)) | row for row in _by_block(model, parts, len(data))]
  frames = data.shape[1] // model.patch[0]
  video, words = math.prod(subject.grid) // math.prod(model.patch), float(np.sum(mask) / len(mask))
  uniform = dict(other_frames=(frames - 1) / frames, encoder=0.5, text=float(np.mean(1 / (1 + video / mask.sum(1)))))
  return dict(tokens=video, frames=frames, text_tokens=words, uniform=uniform, rows=rows)


def _by_block(model, parts, count):
  """[{block, kind, name: mean}] in the order of the network, from {kind: {name: (B, blocks)}} of each batch; rows beyond `count`
  only fill up the last one."""
  rows = []
  for kind in kinds_of(model):
    values = {name: np.concatenate([part[kind][name] for part in parts])[:count].mean(0) for name in parts[0][kind]}
    for i in range(getattr(model.depths, kind)):
      rows.append(dict(block=len(rows), kind=kind) | {name: float(value[i]) for name, value in values.items()})
  return rows


def summary(rows: Sequence[dict]) -> dict:
  """What the report publishes, of the rows of one time and size: means over blocks, and the weakest write of a block."""
  mean = lambda name, kinds: _mean([row[name] for row in rows if name in row and row["kind"] in kinds])
  writes = [row["cross_write"] for row in rows if "cross_write" in row]
  return dict(other_frames=dict(encoder=mean("other_frames", ("dual", "single")), decoder=mean("other_frames", ("decoder",))),
              text=mean("text", ("dual", "single")), cross_write=dict(mean=_mean(writes), weakest=min(writes, default=None)))


def _mean(values):
  return float(np.mean(values)) if values else None
