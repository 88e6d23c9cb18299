"""How far the prompt decides what a model does, at any length of the sequence, with cross-attention and without.

The share of attention that goes to the text falls as the video grows (`evaluate/attention.py`); whether the text loses its say
with it is another question, asked here: a clip with noise on it is given to the network with its own caption and with a
stranger's (docs/results.md).
"""

from collections.abc import Sequence
import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
import numpy as np

from motif_jax import sharding
from motif_jax.config import ModelConfig
from motif_jax.evaluate import attention
from motif_jax.flow import path
from motif_jax.model import transformer
from motif_jax.model.conditioning import network_input

WRITES = r"(single|dual)/cross/out/(kernel|bias)"


class Clips(NamedTuple):
  """Clips, each with its own caption and with a stranger's."""

  latents: np.ndarray  # (N, F, H, W, C)
  own: tuple[np.ndarray, np.ndarray]  # features (N, T, dim) and their mask (N, T)
  other: tuple[np.ndarray, np.ndarray]


def silenced(params: dict) -> dict:
  """The same network with cross-attentions that write nothing: text reaches the video by joint attention alone."""
  leaves = [leaf * 0 if re.fullmatch(WRITES, name) else leaf for name, leaf in sharding.paths_of(params)]
  return jax.tree.unflatten(jax.tree.structure(params), leaves)


@functools.partial(jax.jit, static_argnames=("model",))
def velocity(params: dict, latents: Array, noise: Array, t: Array, text: Array, mask: Array, *, model: ModelConfig) -> Array:
  """(B, F, H, W, C): what the network says of `latents` (B, F, H, W, C) with that much of `noise`, for text alone."""
  return transformer.apply(params, model, _inputs(latents, noise, t), t, text, text_mask=mask)[0]


def _inputs(latents, noise, t):
  """Noised, without a picture to start from."""
  return network_input(path.interpolate(latents, noise, t), jnp.zeros_like(latents[:, None, 0]), t, jnp.zeros(len(latents), bool))


def of_velocities(own: np.ndarray, other: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
  """Name -> (B,), of the velocities (B, ...) with the own caption and with another's, and the true one.

  change: norm of their difference over that of `own`.  gain: by how much of it the error of the velocity rises with the caption
  of another; 0 where the caption is worth nothing, whatever it changes.
  """
  flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)
  own, other, target = flat(own), flat(other), flat(target)
  error = lambda v: np.mean(np.square(v - target), axis=1)
  return dict(change=np.linalg.norm(own - other, axis=1) / np.linalg.norm(own, axis=1), gain=error(other) / error(own) - 1)


def look(params: dict, model: ModelConfig, clips: Clips, times: Sequence[float], *, key: Array, batch: int = 1) -> list[dict]:
  """[{t, cross: "on" or "off", name: mean over clips, name_error: its standard error}] of `of_velocities`, and the share of text.

  text: of the video's attention, the mean of dual and single blocks; where cross is on.  Nothing has an entry for each pair of
  tokens.
  """
  model = dataclasses.replace(model, attention="chunked")
  networks = {"on": params} | ({"off": silenced(params)} if model.cross_attention.kind != "none" else {})
  noise = np.asarray(jax.random.normal(key, clips.latents.shape, jnp.float32))
  rows = []
  for t in times:
    for cross, weights in networks.items():
      parts = []
      for start in range(0, len(noise), batch):
        now = slice(start, start + batch)
        latents, own, other = jax.tree.map(lambda x: x[now], tuple(clips))
        at = jnp.full(len(latents), t, jnp.float32)
        told = of_velocities(*(velocity(weights, latents, noise[now], at, *text, model=model) for text in (own, other)),
                             path.velocity(latents, noise[now]))
        if cross == "on":
          blocks = attention.measure(weights, _inputs(latents, noise[now], at), at, *own, model=model)
          told["text"] = np.concatenate([blocks[kind]["text"] for kind in ("dual", "single") if kind in blocks], axis=1).mean(1)
        parts.append(told)
      rows.append(dict(t=float(t), cross=cross) | _means(parts))
  return rows


def _means(parts):
  made = {}
  for name in parts[0]:
    values = np.concatenate([part[name] for part in parts])
    made[name] = float(values.mean())
    if len(values) > 1:
      made[f"{name}_error"] = float(values.std(ddof=1) / len(values) ** 0.5)
  return made
