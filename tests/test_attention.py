"""Attention backends against the plain formula."""

import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_kernels

from motif_jax.model import attention

B, N, D = 2, 3, 4
VIDEO, TEXT = 10, 6
NAMES = ("video", None)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(attention, "CHUNK", 3)  # several chunks, the last one padded


def segments(seed):
  keys = jax.random.split(jax.random.key(seed), 2)
  return tuple(jax.random.normal(k, (B, length, N, D)) for k, length in zip(keys, (VIDEO, TEXT)))


def plain(q, k, v, mask):
  """Softmax attention in float64 numpy, one query at a time."""
  out = np.zeros(q.shape)
  for b, l, n in np.ndindex(q.shape[:3]):
    seen = np.ones(k.shape[1], bool) if mask is None else mask[b]
    logits = k[b, seen, n] @ q[b, l, n] / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max())
    out[b, l, n] = weights / weights.sum() @ v[b, seen, n]
  return out


MASKS = {"none": (None, None), "tail": (None, jnp.arange(TEXT)[None] < jnp.array([[6], [2]]))}


@pytest.mark.parametrize("backend", ["xla", "chunked"])
@pytest.mark.parametrize("masks", MASKS)
def test_backend_equals_the_plain_formula(backend, masks):
  q, k, v = segments(0), segments(1), segments(2)
  got = attention.attend(q, k, v, MASKS[masks], backend=backend, names=NAMES)
  mask = None if masks == "none" else np.concatenate([np.ones((B, VIDEO), bool), MASKS[masks][1]], axis=1)
  joined = [np.concatenate([np.asarray(x, np.float64) for x in part], axis=1) for part in (q, k, v)]
  assert [x.shape[1] for x in got] == [VIDEO, TEXT]
  np.testing.assert_allclose(np.concatenate(got, axis=1), plain(*joined, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masks", MASKS)
def test_chunked_gradients_equal_the_plain_ones(masks):
  def loss(qkv, backend):
    out = attention.attend(*qkv, MASKS[masks], backend=backend, names=NAMES)
    return sum(jnp.sum(jnp.sin(x)) for x in out)

  qkv = (segments(0), segments(1), segments(2))
  want, got = (jax.grad(loss)(qkv, backend) for backend in ("xla", "chunked"))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), want, got)


def test_the_chunked_backend_never_holds_all_logits():
  length = 120
  x = (jax.ShapeDtypeStruct((B, length, N, D), jnp.float32),)
  text = lambda backend: jax.jit(lambda q: attention.attend(q, q, q, (None,), backend=backend, names=("video",))).lower(x).as_text()
  logits = f"{N}x{length}x{length}x"
  assert logits in text("xla") and logits not in text("chunked")


def test_masked_keys_have_no_influence():
  q, k, v = segments(0), segments(1), segments(2)
  masks = MASKS["tail"]
  other = (v[0], jnp.where(masks[1][..., None, None], v[1], 1e6))
  for a, b in zip(attention.attend(q, k, v, masks, backend="xla", names=NAMES), attention.attend(q, k, other, masks, backend="xla", names=NAMES)):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["cudnn", "tokamax"])
def test_a_fused_kernel_on_a_cpu_fails_and_never_falls_back(backend):
  q = segments(0)
  with pytest.raises(ValueError, match=f"{backend}' needs an NVIDIA GPU"):
    attention.attend(q, q, q, (None, None), backend=backend, names=NAMES)


def test_an_unknown_backend_is_told_the_known_ones():
  with pytest.raises(ValueError, match="xla, chunked, cudnn.*Did you mean 'chunked'"):
    attention.attend((), (), (), (), backend="chunkd", names=())


def lengths_only(q, k, v, *, query_seq_lengths=None, key_value_seq_lengths=None, implementation):
  """jax's own attention in place of a fused kernel that was given these arguments; the kernel refuses odd lengths in training."""
  assert q.shape[1] % 2 == k.shape[1] % 2 == 0 or implementation != "cudnn"
  return DOT_PRODUCT(q, k, v, query_seq_lengths=query_seq_lengths, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")


DOT_PRODUCT = jax.nn.dot_product_attention
FUSED = ("cudnn", "tokamax")


@pytest.fixture
def fused(monkeypatch):
  """The fused backends reach `lengths_only` in place of their kernel."""
  monkeypatch.setattr(attention, "_check_gpu", lambda backend, q: None)
  monkeypatch.setattr(jax.nn, "dot_product_attention", lengths_only)
  monkeypatch.setitem(sys.modules, "tokamax", types.SimpleNamespace(dot_product_attention=lengths_only))


@pytest.mark.parametrize("text", [5, 6])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("backend", FUSED)
def test_what_fused_kernels_are_asked_for_is_the_plain_attention(fused, backend, padded, text):
  """Outputs and gradients; joint lengths of 15 and 16, so that padding to even lengths is seen to change nothing."""
  cut = lambda part: (part[0], part[1][:, :text])
  masks = (None, jnp.arange(text)[None] < jnp.array([[text], [2]])) if padded else (None, None)

  def loss(qkv, backend):
    out = attention.attend(*qkv, masks, backend=backend, names=NAMES)
    return sum(jnp.sum(jnp.sin(x)) for x in out), out

  qkv = tuple(cut(segments(seed)) for seed in range(3))
  want, got = (jax.grad(loss, has_aux=True)(qkv, backend) for backend in ("xla", backend))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), want, got)


@pytest.mark.parametrize("keys", [14, 15])
def test_odd_lengths_are_traced_with_lengths_and_without_a_bias(monkeypatch, keys):
  """Against jax's own checks for training; no array of the trace has a row for each pair of query and key."""
  monkeypatch.setattr(attention, "_check_gpu", lambda backend, q: None)
  monkeypatch.setattr(cudnn_kernels, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn_kernels, "check_compute_capability", lambda capability: True)
  shape = lambda length: jax.ShapeDtypeStruct((B, length, N, 8), jnp.bfloat16)
  loss = lambda q, k, v, mask: jnp.sum(attention.cudnn(q, k, v, mask).astype(jnp.float32))
  mask = jax.ShapeDtypeStruct((B, keys), bool)
  program = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(shape(13), shape(keys), shape(keys), mask))
  assert program.count("dot_product_attention_bwd_wrapper[") == 1 and "MaskType.PADDING" in program
  assert not re.search(rf"\b1[34],{keys + keys % 2}\]", program)


def test_tokamax_s_own_plain_attention_is_ours():
  """Where the library is installed: through its public function, with the lengths that its Hopper kernels would get."""
  pytest.importorskip("tokamax")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(attention, "_check_gpu", lambda backend, q: None)
    patch.setattr(attention, "TOKAMAX", "xla")
    q, k, v = segments(0), segments(1), segments(2)
    want, got = (attention.attend(q, k, v, MASKS["tail"], backend=backend, names=NAMES) for backend in ("xla", "tokamax"))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), want, got)


def test_a_missing_tokamax_is_told_with_what_it_needs(monkeypatch):
  monkeypatch.setattr(attention, "_check_gpu", lambda backend, q: None)
  monkeypatch.setitem(sys.modules, "tokamax", None)
  q = segments(0)
  with pytest.raises(ValueError, match="needs the package tokamax, which needs Python 3.12 and jax 0.11.1"):
    attention.attend(q, q, q, (None, None), backend="tokamax", names=NAMES)
