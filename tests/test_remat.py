"""Claims about rematerialisation: it changes memory, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_kernels

from motif_jax import config
from motif_jax.model import stack, transformer
from tests import tiny
from tests.sensitive import sensitive


def _config(remat, **model):
  c = tiny.config_dict()
  c.route.keep, c.alignment.weight = 1.0, 0.0
  c.model.update(dict(remat=remat, depths=dict(dual=2, single=6, decoder=0), attention="chunked") | model)
  return config.from_config_dict(c).model


@functools.cache
def _inputs():
  cfg = _config("none")
  normal = lambda i, *shape: jax.random.normal(jax.random.key(i), (4, *shape))
  latents = normal(0, tiny.FRAMES, tiny.HEIGHT, tiny.WIDTH, 2 * cfg.latent_channels + 1)
  params = sensitive(jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0)), seed=0)
  return params, latents, jnp.linspace(0.1, 0.9, 4), normal(1, 5, cfg.text_dim)


def _gradient(cfg):
  """(params, latents, t, text) -> loss and gradients."""
  return jax.jit(jax.value_and_grad(lambda params, *inputs: jnp.mean(jnp.square(transformer.apply(params, cfg, *inputs)[0]))))


@functools.cache
def _compiled(remat):
  return _gradient(_config(remat)).lower(*_inputs()).compile()


@functools.cache
def _result(remat):
  return jax.device_get(_compiled(remat)(*_inputs()))


@pytest.mark.parametrize("remat", [name for name in stack.REMAT if name != "none"])
def test_loss_and_every_gradient_are_those_without_rematerialisation(remat):
  (loss, gradients), (expected_loss, expected) = _result(remat), _result("none")
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
  for (path, x), y in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected)):
    assert 0 < np.linalg.norm(y), path
    assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y), path


def test_memory_falls_in_the_order_of_the_policies():
  held = {name: _compiled(name).memory_analysis().temp_size_in_bytes for name in stack.REMAT}
  attended = 4 * 4 * 16 * (2 * (32 + 5) + 6 * (2 * 32 + 5))  # bytes: (B, L, D) of video and text, and of cross-attention
  assert held["none"] > 2 * held["attention"], held
  assert 0.5 * attended < held["attention"] - held["block"] < 1.5 * attended, (held, attended)
  assert held["offload"] <= 1.01 * held["block"], held  # on CPU the host's memory is the device's


def test_offloaded_tokens_wait_in_the_hosts_memory_and_nothing_else_does():
  lower = lambda name: _gradient(_config(name)).trace(*_inputs()).lower(lowering_platforms=("cuda",))
  lowered = {name: lower(name).as_text() for name in stack.REMAT}
  moved = [line for line in lowered.pop("offload").splitlines() if "annotate_device_placement" in line and "pinned_host" in line]
  # Video and text, of each of the two stacks and of the last block, which is a scan of its own; inside a scan each stands once.
  assert len(moved) == 6 and all("tensor<4x32x16xf32>" in line or "tensor<4x5x16xf32>" in line for line in moved), moved
  assert not any("pinned_host" in text for text in lowered.values())


@pytest.mark.parametrize("remat, runs", [("none", 1), ("attention", 1), ("block", 2), ("offload", 2)])
def test_saved_attention_spares_cudnns_kernel_a_second_run(monkeypatch, remat, runs):
  """Read off the traced program, because the kernel itself needs a GPU."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(cudnn_kernels, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn_kernels, "check_compute_capability", lambda capability: True)
  cfg = _config(remat, attention="cudnn", dtype="bfloat16", depths=dict(dual=1, single=0, decoder=0))
  params = jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0))
  *inputs, text = _inputs()[1:]
  program = str(jax.make_jaxpr(_gradient(cfg))(params, *inputs, text[:, 1:]))  # in training the kernel refuses odd lengths
  assert program.count("dot_product_attention_bwd_wrapper[") == 1
  assert program.count("dot_product_attention_fwd_wrapper[") == runs
