"""Attention over token segments, behind one function with named backends.

Shape suffixes in this file: B batch, L queries, S keys, N heads, D features of a head.
Segments (video, context, decoder, encoder tokens) stay apart everywhere else, each with its own sharding; they are
concatenated only here.
"""

import difflib
import math

import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.mesh import parts_of, per_device
from motif_jax.model import sequence

CHUNK = 512  # queries per step of the chunked backend
TOKAMAX = "mosaic"  # of tokamax's implementations, the one written for Hopper, forward and backward


def attend(queries: tuple[Array, ...], keys: tuple[Array, ...], values: tuple[Array, ...], masks: tuple[Array | None, ...],
           *, backend: str, names: tuple[str | None, ...], key_names: tuple[str | None, ...] | None = None) -> tuple[Array, ...]:
  """Softmax attention of all `queries` over all `keys`, split back into the segments of the queries.

  Each segment is (B, length, N, D); a mask is (B, length) with True for keys that may be attended, or None for all of them.
  The last segments may have keys and values and no queries: nobody reads what would come out of them.
  Scale 1 / sqrt(D); softmax in float32.  `backend` is a key of `BACKENDS`; nothing falls back to another one.

  On a mesh every device calls the backend on its own part, inside `shard_map`.  `names` says, in the words of `mesh.constrain`,
  where the tokens of each segment lie: "video" segments are spread over the sequence axis and stand first, those
  called None are whole on every device.  `key_names` is for cross-attention, whose keys must be whole.
  """
  if backend not in BACKENDS:
    close = difflib.get_close_matches(backend, BACKENDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"model.attention is {backend!r}; known backends: {', '.join(BACKENDS)}.{hint}")
  assert key_names is None or not any(key_names), f"keys of cross-attention must be whole on every device, not {key_names}"
  mask = _joint_mask(keys, masks)

  def own_part(queries, keys, values, mask):
    local = lambda q, k, v: BACKENDS[backend](q, k, v, mask)
    devices = parts_of("video")
    if devices > 1 and key_names is None:
      return sequence.attend_spread(local, queries, keys, values, tuple(name == "video" for name in names), devices)
    q, k, v = (jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0] for parts in (queries, keys, values))
    ends = [sum(part.shape[1] for part in queries[:i]) for i in range(1, len(queries))]
    return tuple(jnp.split(local(q, k, v), ends, axis=1))

  segments = lambda names: tuple(("batch", name, None, None) for name in names)
  of_queries, of_keys = segments(names[:len(queries)]), segments(names if key_names is None else key_names)
  of_mask = None if mask is None else ("batch", None)
  return per_device(own_part, inputs=(of_queries, of_keys, of_keys, of_mask), outputs=of_queries)(queries, keys, values, mask)


def _joint_mask(keys, masks) -> Array | None:
  """One (B, S) mask for the concatenated keys, or None where no segment has one."""
  if all(mask is None for mask in masks):
    return None
  full = [jnp.ones(part.shape[:2], bool) if mask is None else mask for part, mask in zip(keys, masks)]
  return jnp.concatenate(full, axis=1)


def xla(q_BLND: Array, k_BSND: Array, v_BSND: Array, mask_BS: Array | None) -> Array:
  """Plain attention; materialises the (B, N, L, S) logits."""
  logits = jnp.einsum("blnd,bsnd->bnls", q_BLND, k_BSND, preferred_element_type=jnp.float32) / math.sqrt(q_BLND.shape[-1])
  if mask_BS is not None:
    logits = jnp.where(mask_BS[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(logits, axis=-1).astype(v_BSND.dtype)
  return jnp.einsum("bnls,bsnd->blnd", weights, v_BSND)


def chunked(q_BLND: Array, k_BSND: Array, v_BSND: Array, mask_BS: Array | None) -> Array:
  """`xla` over blocks of queries, recomputed in the backward pass: memory grows with CHUNK * S instead of L * S."""
  length = q_BLND.shape[1]
  size = min(CHUNK, length)
  count = -(-length // size)
  padded = jnp.pad(q_BLND, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
  blocks = jnp.moveaxis(padded.reshape(padded.shape[0], count, size, *padded.shape[2:]), 1, 0)
  block = jax.checkpoint(lambda q: xla(q, k_BSND, v_BSND, mask_BS))
  out = jnp.moveaxis(jax.lax.map(block, blocks), 0, 1)
  return out.reshape(padded.shape)[:, :length]


def cudnn(q_BLND: Array, k_BSND: Array, v_BSND: Array, mask_BS: Array | None) -> Array:
  """cuDNN's fused attention, on NVIDIA GPUs in bfloat16; masked keys must stand at the tail.

  The mask becomes a length per sample: cuDNN would turn a boolean mask into a dense L x S bias.
  """
  _check_gpu("cudnn", q_BLND)
  batch, length, keys = *q_BLND.shape[:2], k_BSND.shape[1]
  # jax refuses odd lengths in training where there is a bias, and its check takes the empty array that stands for none for one
  # (jax 0.10.2 and 0.11.2, `check_is_flash_attention`).  One more row, which the lengths hide, gives exactly the same.
  even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
  query_lengths = key_lengths = None  # without lengths the kernel has no mask at all
  if mask_BS is not None or length % 2 or keys % 2:
    query_lengths = jnp.full((batch,), length, jnp.int32)
    key_lengths = jnp.full((batch,), keys, jnp.int32) if mask_BS is None else _lengths(mask_BS)
  out = jax.nn.dot_product_attention(even(q_BLND), even(k_BSND), even(v_BSND), query_seq_lengths=query_lengths,
                                     key_value_seq_lengths=key_lengths, implementation="cudnn")
  return out[:, :length]


def tokamax(q_BLND: Array, k_BSND: Array, v_BSND: Array, mask_BS: Array | None) -> Array:
  """tokamax's Mosaic kernels, on Hopper GPUs in bfloat16; masked keys must stand at the tail.

  An optional library (github.com/openxla/tokamax).  Only keys get lengths: lengths of queries would become a dense mask there.
  """
  _check_gpu("tokamax", q_BLND)
  try:
    import tokamax as library
  except ImportError as e:
    raise ValueError("model.attention='tokamax' needs the package tokamax, which needs Python 3.12 and jax 0.11.1 or newer: pip "
                     f"install tokamax, or use 'cudnn'. Importing it said: {e}") from e
  lengths = None if mask_BS is None else _lengths(mask_BS)
  return library.dot_product_attention(q_BLND, k_BSND, v_BSND, key_value_seq_lengths=lengths, implementation=TOKAMAX)


def _lengths(mask_BS):
  return jnp.sum(mask_BS, axis=1, dtype=jnp.int32)


def _check_gpu(backend, q):
  platform = jax.default_backend()
  if platform != "gpu" or q.dtype != jnp.bfloat16:
    raise ValueError(f"model.attention={backend!r} needs an NVIDIA GPU and bfloat16; here is {platform} and {q.dtype}. "
                     "Use 'xla' or 'chunked', or set model.dtype='bfloat16' on a GPU.")


BACKENDS = {"xla": xla, "chunked": chunked, "cudnn": cudnn, "tokamax": tokamax}
