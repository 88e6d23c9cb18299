"""Parameters under which a network feels every one of its inputs and weights; for tests (model.md section 9).

A network as initialised, with zero gates and outputs, hardly notices its conditions: a wrong mask or a dropped branch would pass.
"""

import zlib

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

STACKS = {"dual", "single", "decoder", "layers", "blocks"}  # the parts whose leaves have a leading layer axis


def sensitive(params, seed: int) -> dict:
  """A tree like `params` (arrays, or abstract ones) with new values, of the dtype of each leaf.

  Kernels N(0, 1 / fan_in), biases of modulations N(0, 0.7^2) so that gates and scales are of order 1, norm scales
  1 + 0.1 N(0, 1), other biases and offsets of norms 0.1 N(0, 1), embeddings of tokens and places N(0, 1).  Each leaf depends on
  `seed`, its path and its shape alone.
  """
  leaves = flatten_dict(params, sep="/")
  return unflatten_dict({path: jnp.asarray(_value(path, leaf.shape, seed), leaf.dtype) for path, leaf in leaves.items()}, sep="/")


def _value(path, shape, seed):
  normal = np.random.default_rng([seed, zlib.crc32(path.encode())]).standard_normal(shape, np.float32)
  parts = path.split("/")
  if parts[-1] == "kernel":
    return normal / np.sqrt(fan_in(path, shape))
  if parts[-1].endswith("scale"):
    return 1 + 0.1 * normal
  if parts[-1] in ("bias", "offset"):
    return (0.7 if parts[-2] == "modulation" else 0.1) * normal
  if parts[0] in ("embed", "places", "class_token"):
    return normal
  raise ValueError(f"{path} ends in {parts[-1]!r}; expected 'kernel', 'scale', 'bias' or 'offset', or an embedding.")


def fan_in(path: str, shape: tuple[int, ...]) -> int:
  """The number of inputs of a kernel: of (D, N, dh) queries, keys and values D, of everything else all axes but the last."""
  parts = path.split("/")
  matrix = shape[1:] if STACKS & set(parts) else shape
  return matrix[0] if parts[-2] in ("query", "key", "value") else int(np.prod(matrix[:-1]))
