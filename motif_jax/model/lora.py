"""Low-rank adapters (LoRA, arXiv 2106.09685): a frozen kernel W plus scale * down up, of rank r.

An adapter is a tree of its own, path of a kernel -> {"down", "up"}, float32; `attach` hangs it into the parameters, where a layer
finds it beside its kernel.  So adapters train, are saved and are averaged alone, and the network knows nothing of training.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import fnmatch
import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from motif_jax.config import ModelConfig
from motif_jax.model import transformer
from motif_jax.model.stack import kinds_of

NAME = "adapter"  # beside the kernel in the tree of parameters
NOT_LINEAR = ("video_embed/kernel",)  # a convolution in the released layout, whose adapters have another shape


def kernels(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Path -> (layers or 0, inputs, outputs) of every kernel that can have an adapter, as matrices."""
  return {path: (layers_of(path, shape, cfg), *map(math.prod, axes_of(path, shape, cfg)))
          for path, shape in _shapes(cfg).items() if path.endswith("/kernel") and path not in NOT_LINEAR}


@functools.cache
def _shapes(cfg):
  """Path -> shape of every parameter; the backend of attention, which has none, may ask for a GPU."""
  plain = dataclasses.replace(cfg, attention="xla")
  tree = jax.eval_shape(lambda key: transformer.init(key, plain), jax.random.key(0))
  return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


def axes_of(path: str, shape: tuple[int, ...], cfg: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """(input axes, output axes) of the kernel at `path`, without its layer axis: (D,), (N, dh) of a query."""
  matrix = shape[1:] if layers_of(path, shape, cfg) else shape
  inputs = 2 if path.endswith("/out/kernel") else 1  # heads come in, features go out
  return matrix[:inputs], matrix[inputs:]


def layers_of(path: str, shape: tuple[int, ...], cfg: ModelConfig) -> int:
  """How many layers the parameter at `path` has along its first axis; 0 outside the stacks."""
  return shape[0] if path.split("/")[0] in kinds_of(cfg) else 0


def matching(cfg: ModelConfig, targets: Sequence[str]) -> list[str]:
  """The paths of the kernels that `targets` name, "/kernel" left out in both; ValueError for a pattern that names none."""
  names = [path.removesuffix("/kernel") for path in kernels(cfg)]
  idle = [pattern for pattern in targets if not fnmatch.filter(names, pattern)]
  if idle or not targets:
    raise ValueError(f"the target(s) {', '.join(map(repr, idle)) or '(none given)'} match no kernel of this network; its kernels "
                     f"are {', '.join(sorted(names))}, and * stands for any letters.")
  return [f"{name}/kernel" for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in targets)]


def init(key: Array, cfg: ModelConfig, *, rank: int, targets: Sequence[str]) -> dict:
  """A new adapter: `down` uniform in +-1 / sqrt(inputs), as PEFT has it, `up` zero, so that the network is unchanged."""
  every, paths = kernels(cfg), matching(cfg, targets)
  largest = min(min(every[path][1:]) for path in paths)
  if not 1 <= rank <= largest:
    small = [f"{path.removesuffix('/kernel')} is {every[path][1]} x {every[path][2]}"
             for path in paths if min(every[path][1:]) == largest]
    raise ValueError(f"the rank is {rank}, expected 1 to {largest}: {small[0]}; lower the rank, or leave small kernels out of "
                     "the targets.")
  shapes, made = _shapes(cfg), {}
  for number, path in enumerate(every):
    if path in paths:
      layers, (inputs, outputs) = shapes[path][:bool(every[path][0])], axes_of(path, shapes[path], cfg)
      place, bound = path.removesuffix("kernel") + NAME, 1 / np.sqrt(every[path][1])
      made[f"{place}/down"] = jax.random.uniform(jax.random.fold_in(key, number), (*layers, *inputs, rank), minval=-bound,
                                                 maxval=bound)
      made[f"{place}/up"] = jnp.zeros((*layers, rank, *outputs))
  return unflatten_dict(made, sep="/")


def attach(params: Mapping, adapter: Mapping, *, scale: float) -> dict:
  """The tree of a network with `adapter` beside its kernels; `scale` (alpha / rank, times any weight) goes into `up`."""
  leaves, added = flatten_dict(params, sep="/"), flatten_dict(adapter, sep="/")
  homeless = sorted(path for path in added if f"{path.rpartition(NAME)[0]}kernel" not in leaves)
  if homeless:
    raise ValueError(f"the adapter is of another network: it has {', '.join(homeless[:3])}, and this one no such kernel.")
  scaled = {path: leaf * scale if path.endswith("/up") else leaf for path, leaf in added.items()}
  return unflatten_dict(leaves | scaled, sep="/")


def merge(params: Mapping, adapter: Mapping, cfg: ModelConfig, *, scale: float) -> dict:
  """The tree of a network with kernels W + scale * down up, each summed in float32 and in the dtype that it had."""
  leaves = flatten_dict(attach(params, adapter, scale=scale), sep="/")
  for path in [path for path in leaves if path.endswith(f"/{NAME}/down")]:
    home = path.removesuffix(f"{NAME}/down") + "kernel"
    kernel, down, up = leaves[home], leaves.pop(path), leaves.pop(path.removesuffix("down") + "up")
    layers, (inputs, outputs) = layers_of(home, kernel.shape, cfg), axes_of(home, kernel.shape, cfg)
    flat = lambda x, *shape: x.astype(jnp.float32).reshape(layers or 1, *shape)
    product = flat(down, math.prod(inputs), -1) @ flat(up, -1, math.prod(outputs))
    leaves[home] = (kernel.astype(jnp.float32) + product.reshape(kernel.shape)).astype(kernel.dtype)
  return unflatten_dict(leaves, sep="/")


def frozen(params: Mapping, dtype: str) -> dict:
  """A network that is not trained: kernels in `dtype`, in which layers use them anyway, the few other parameters in float32."""
  kind = lambda path: dtype if path.endswith("/kernel") else jnp.float32
  return unflatten_dict({path: leaf.astype(kind(path)) for path, leaf in flatten_dict(params, sep="/").items()}, sep="/")


def digest(params: Mapping) -> str:
  """32 hex digits of all weights, rounded to bfloat16: the same on any mesh, and of files and checkpoints of one network."""
  leaves = flatten_dict(params, sep="/")
  sums = jax.device_get(jax.jit(lambda leaves: {path: _sums(leaf) for path, leaf in leaves.items()})(leaves))
  said = [(path, leaves[path].shape, *map(int, sums[path])) for path in sorted(leaves)]
  return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


def _sums(x: Array) -> tuple[Array, Array]:
  """Two sums of the bits of x, modulo 2^32, which no order of adding changes; the second one feels where each number stands."""
  bits = jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
  place = sum(jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * np.uint32(0x9E3779B1 + 2 * axis) for axis in range(x.ndim))
  return jnp.sum(bits, dtype=jnp.uint32), jnp.sum(bits * (place | 1), dtype=jnp.uint32)
