"""Attention backends against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_cudnn_on_a_cpu_fails_and_never_falls_back():
  q = segments(0)
  with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
    attention.attend(q, q, q, (None, None), backend="cudnn", names=NAMES)


def test_an_unknown_backend_is_told_the_known_ones():
  with pytest.raises(ValueError, match="xla, chunked, cudnn.*Did you mean 'chunked'"):
    attention.attend((), (), (), (), backend="chunkd", names=())
