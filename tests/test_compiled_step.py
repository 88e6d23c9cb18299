"""Claims about what the compiled training step does not hold, searched in its module: host transfers, scatters, float64, N x N,
the seed."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from motif_jax import compiled, config, mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.model import attention
from motif_jax.train import metrics, telemetry
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import abstract_state
from motif_jax.train.step import ABSTRACT_KEY, make_train_step, plan_at
from tests import one_step, tiny

KEPT = 32  # of 64 video tokens, and more than any other size of the model
HOST = re.compile(r" (infeed|outfeed|send|recv|send-done|recv-done)\(|custom_call_target=\"[^\"]*callback")


def host_transfers(text):
  return HOST.findall(text)


def scatters(text):
  """On CPU a scatter becomes a loop, which keeps its name."""
  return re.findall(r"(?<!reduce-)(?<!reduce_)\bscatter", text)


def wide_floats(text):
  return re.findall(r"\b(?:f64|c128)\[", text)


def pairs_of_tokens(text):
  """Buffers with two axes as long as a sequence: logits of all queries and all keys."""
  return [b for b in compiled.largest_buffers(text, 10_000) if sum(d >= KEPT for d in compiled.dims_of(b.shape)) > 1]


@functools.cache
def step_of(backend):
  """The text of a compiled step: routed, aligned, in bfloat16, with everything measured."""
  c = tiny.config_dict()
  c.model.update(dict(attention=backend, dtype="bfloat16", mlp_ratio=1, depths=dict(dual=1, single=1, decoder=1)))
  c.route.stop, c.alignment.hidden = 2, 20
  cfg = config.from_config_dict(c)
  mesh = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  optimizer = make_optimizer(cfg.optimizer, steps=10)
  step = make_train_step(cfg, mesh, optimizer, plan=plan_at(cfg, 0), measure=metrics.measure)
  shaped = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  twice = lambda x: jnp.concatenate([x, x], axis=1)  # 4 x 4 x 4 tokens instead of 2 x 4 x 4
  batch = {name: shaped(twice(x) if name in ("latents", "teacher") else x) for name, x in tiny.batch(cfg).items()}
  with jax.set_mesh(mesh):
    return step.jitted.lower(abstract_state(cfg, optimizer), batch, ABSTRACT_KEY).compile().as_text()


@pytest.fixture
def short_chunks(monkeypatch):
  monkeypatch.setattr(attention, "CHUNK", 8)


@pytest.mark.parametrize("found", [host_transfers, scatters, wide_floats, pairs_of_tokens])
def test_a_step_is_free_of(short_chunks, found):
  assert not found(step_of("chunked"))


def test_all_seeds_share_one_program():
  cfg, mesh = one_step.make_config(), meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tiny.batch(cfg))
  with jax.set_mesh(mesh):
    of = lambda seed: make_train_step(dataclasses.replace(cfg, seed=seed), mesh, one_step.SGD, plan=plan_at(cfg, 0),
                                      **telemetry.closely(None))
    zero, seven = (of(seed).jitted.lower(abstract_state(cfg, one_step.SGD), batch, ABSTRACT_KEY).as_text() for seed in (0, 7))
  assert zero == seven


@pytest.mark.parametrize("found, function", [
    (host_transfers, lambda x: jax.debug.print("{}", x.sum())),
    (scatters, jax.grad(lambda x: jnp.sum(jnp.square(jnp.take(x, x[:5, 0].astype(int), axis=0))))),
    (pairs_of_tokens, lambda x: jnp.tanh(x @ x.T) @ x),
])
def test_the_search_finds(found, function):
  assert found(jax.jit(function).lower(jnp.ones((40, 3))).compile().as_text())


def test_the_search_finds_float64():
  with jax.enable_x64(True):
    assert wide_floats(jax.jit(jnp.sin).lower(jnp.ones(3, jnp.float64)).compile().as_text())


@pytest.mark.parametrize("backend", ["xla", "chunked"])
def test_plain_attention_alone_holds_pairs_of_tokens(short_chunks, backend):
  part = (jax.ShapeDtypeStruct((2, 64, 2, 8), jnp.float32),)
  run = lambda q, k, v: attention.attend(q, k, v, (None,), backend=backend, names=("video",))
  loss = lambda *parts: sum(jnp.sum(jnp.sin(out)) for out in run(*parts))
  text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(part, part, part).compile().as_text()
  assert bool(pairs_of_tokens(text)) == (backend == "xla")
