"""What tells why a run goes wrong, measured inside some of its steps, by group of parameters and by block (docs/telemetry.md).

All of it comes from the step that runs anyway, a second compiled variant of it, so that a step that measures costs a little and
one that does not costs nothing.  Values are arrays on the device; `named` turns them into numbers on the host, a step later.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from motif_jax import sharding
from motif_jax.train import metrics

TINY = 1e-20  # under a quotient of norms: parameters that start at zero are divided too


def of_block(layer: dict, before: tuple[Array, ...], after: tuple[Array, ...], calls: list) -> dict[str, Array]:
  """Name -> (B,) float32 of one block, for `transformer.apply(..., measure=of_block)`.

  residual: root mean square of the video tokens after the block.  gate, scale: mean magnitude of the video's own, over branches.
  logit: an upper bound of the attention logits, the longest query times the longest key of a head over sqrt(dh), largest of all
  heads; padding counts.  cross_logit: the same of the cross-attention.  cross_write: what the cross-attention writes, taken
  through the block's projection and gate, relative to the video tokens before the block, as a quotient of norms.  cross_share:
  the same before the projection, relative to the attention output that it is added to.
  """
  modulation = next(call.outputs for call in calls if call.path in ("modulation", "video/modulation"))
  shifts_scales_gates = [modulation[i::3] for i in range(3)]
  magnitude = lambda parts: sum(jnp.mean(jnp.abs(part), axis=(1, 2)) for part in parts) / len(parts)
  heads = [call.outputs for call in calls if call.path.endswith("attention")]
  made = {
      "residual": norm(after[0]) / math.sqrt(math.prod(after[0].shape[1:])),
      "scale": magnitude(shifts_scales_gates[1]),
      "gate": magnitude(shifts_scales_gates[2]),
      "logit": bound([q for q, _, _ in heads if q is not None], [k for _, k, _ in heads]),
  }
  cross = next((call for call in calls if call.path == "cross"), None)
  if cross is not None:
    # Of those before it: its own norms, or the block's, whose last call was the query's here and the text's key there.
    last = {call.path.rpartition("/")[2]: call.outputs for call in calls[:calls.index(cross)]}
    made["cross_logit"] = bound([last["query_norm"]], [last["key_norm"]])
    made["cross_share"] = norm(cross.outputs) / (norm(cross.inputs[0]) + TINY)
    write = cross.outputs
    if "video" not in layer:  # a single-stream block: projected and gated with the attention output
      kernel = layer["attention"]["out"]["kernel"]
      write = modulation[2] * (write @ kernel.reshape(-1, kernel.shape[-1]).astype(write.dtype))
    made["cross_write"] = norm(write) / (norm(before[0]) + TINY)
  return made


def norm(x: Array) -> Array:
  """(B,) float32: the Euclidean norm of each sample of x (B, ...)."""
  return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(1, x.ndim))))


def bound(queries: list[Array], keys: list[Array]) -> Array:
  """(B,): no logit of attention between `queries` and `keys`, each (B, length, N, dh), is larger (Cauchy-Schwarz)."""
  longest = lambda parts: jnp.max(jnp.stack([
      jnp.max(jnp.sum(jnp.square(part.astype(jnp.float32)), axis=-1), axis=1) for part in parts]), axis=0)  # (B, N)
  return jnp.max(jnp.sqrt(longest(queries) * longest(keys)), axis=-1) / math.sqrt(queries[0].shape[-1])


def of_step(*, params: dict, updates: dict, gradients: dict, ema: dict, blocks: dict, conditioned: Array, text: Array,
            text_mask: Array, empty: Array | None, **_) -> dict[str, Array]:
  """Name -> () or (blocks of a kind,) of one step.

  Args:
    params: before the update; `updates` are what is added to them, `ema` what their average was.
    blocks: kind -> name -> (B, blocks), from `of_block`.
    conditioned: (B,) bool, image-to-video.
    empty: (1, text_dim), the features of a dropped caption; None where they are not known.
  """
  weights = sizes(params)
  quotient = lambda tree: {group: size / (weights[group] + TINY) for group, size in sizes(tree).items()}
  distance = quotient({"model": jax.tree.map(lambda average, now: now - average, ema, params["model"])})
  made = {f"gradient/{group}": size for group, size in sizes(gradients).items()}
  made |= {f"update/{group}": size for group, size in quotient(updates).items()}
  made |= {f"ema_distance/{group}": size for group, size in distance.items()}
  for kind, measured in blocks.items():
    made |= {f"{name}/{kind}": OVER_SAMPLES.get(name, jnp.mean)(value, axis=0) for name, value in measured.items()}
  made["share/image_to_video"] = jnp.mean(conditioned)
  if empty is not None:
    alone = jnp.sum(text_mask, axis=1) == len(empty)
    made["share/caption_dropped"] = jnp.mean(alone & jnp.all(text[:, :len(empty)] == empty, axis=(1, 2)))
  return made


OVER_SAMPLES = {"logit": jnp.max, "cross_logit": jnp.max}  # of a batch; all others are averaged


def sizes(tree: dict) -> dict[str, Array]:
  """Group of parameters -> norm of all of `tree` in it together."""
  squares: dict[str, Array] = {}
  for path, leaf in sharding.paths_of(tree):
    group = group_of(sharding.parameter_name(path))
    squares[group] = squares.get(group, 0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
  return {group: jnp.sqrt(square) for group, square in squares.items()}


def group_of(path: str) -> str:
  """The group that a parameter counts to: the part of the network that it lies in; all cross-attention is a part of its own."""
  return "cross" if "/cross/" in path else path.partition("/")[0]


def closely(empty: np.ndarray | None) -> dict:
  """The arguments of `make_train_step` for a step that gives (metrics, telemetry)."""
  return dict(of_block=of_block, measure=lambda **step: (metrics.measure(**step), of_step(**step, empty=empty)))


# The same for a step that gives metrics and no telemetry.
LIGHTLY = dict(of_block=None, measure=lambda **step: (metrics.measure(**step), {}))


def named(measured: dict[str, Array]) -> dict[str, float]:
  """Name -> number, on the host, with the number of the block behind the name: "gate/dual/03"."""
  values = {}
  for name, value in jax.device_get(measured).items():
    values |= {name: float(value)} if np.ndim(value) == 0 else {f"{name}/{i:02d}": float(v) for i, v in enumerate(value)}
  return values
