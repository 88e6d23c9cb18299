"""Claims about eight devices: every mesh computes what one device does, and puts each array where the table says."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax import compiled, config, mesh as meshes, sharding
from motif_jax.config import AlignmentConfig, MeshConfig
from motif_jax.model import alignment, attention, routing, sequence, transformer
from motif_jax.model.plan import make_plan
from tests import tiny
from tests.sensitive import sensitive

B, GRID, GROUPS = 8, (6, 4, 8), 24  # 6 x 2 x 4 = 48 video tokens: two in each group, whole groups on 2, 4, 6 or 8 devices
HEADS = 12
ALIGNMENT = AlignmentConfig(teacher="gradients", teacher_dim=6, tap=3, hidden=20, weight=0.5, last_step=0)
RATE = 0.1


def _config():
  c = tiny.config_dict()
  c.model.update(dict(width=96, heads=HEADS, rope_axes=(4, 2, 2), image_dim=10, remat="block"))
  return config.from_config_dict(c).model


def _inputs(cfg):
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal((B, *shape), np.float32)
  return {
      "latents": normal(*GRID, 2 * cfg.latent_channels + 1), "t": rng.uniform(size=B).astype(np.float32),
      "text": normal(5, cfg.text_dim), "text_mask": np.arange(5)[None] < rng.integers(1, 6, (B, 1)),
      "image": normal(3, cfg.image_dim),
      "target": normal(*GRID, cfg.latent_channels), "teacher": normal(6, 3, 5, 6),
  }


def _params(cfg):
  model = jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0))
  projector = jax.eval_shape(lambda key: alignment.init_projector(key, ALIGNMENT, cfg.width), jax.random.key(0))
  return {"model": sensitive(model, 0), "projector": sensitive(projector, 1)}


def _step(cfg):
  """(params, inputs) -> (loss, gradients, params after a step of SGD): routed over the dual/single border, tapped inside."""
  plan = make_plan(cfg.depths, (1, 3), ALIGNMENT.tap)

  def loss(params, x):
    route = routing.draw(jax.random.key(1), B, 48, keep=0.5, groups=GROUPS, policy="random")
    velocity, aux = transformer.apply(params["model"], cfg, x["latents"], x["t"], x["text"], text_mask=x["text_mask"],
                                      image=x["image"], plan=plan, route=route)
    aligned = alignment.alignment_loss(params["projector"], ALIGNMENT, aux.tapped, x["teacher"], (6, 2, 4), route)
    return jnp.mean(jnp.square(velocity - x["target"])) + jnp.mean(aligned)

  def step(params, x):
    value, gradients = jax.value_and_grad(loss)(params, x)
    return value, gradients, jax.tree.map(lambda p, g: p - RATE * g, params, gradients)

  return step


def _on(sizes, cfg):
  """What `_step` gives on a mesh of these sizes, pinned to the table's shardings, and these shardings."""
  mesh = meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))])
  params = _params(cfg)
  shardings = sharding.parameter_shardings(params, mesh)
  step = jax.jit(_step(cfg), out_shardings=(None, shardings, shardings))
  with jax.set_mesh(mesh):
    return step(jax.device_put(params, shardings), meshes.global_batch(mesh, _inputs(cfg))), shardings


@pytest.fixture(scope="module")
def alone():
  return _on((1, 1, 1), _config())[0]


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 4), (1, 1, 6), (8, 1, 1), (1, 8, 1), (1, 1, 8)], ids=str)
def test_a_step_on_any_mesh_is_that_of_one_device(alone, sizes):
  (loss, gradients, after), shardings = _on(sizes, _config())
  np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
  for name, got, want in (("gradient", gradients, alone[1]), ("parameter", after, alone[2])):
    for (path, a), (_, b) in zip(sharding.paths_of(got), sharding.paths_of(want)):
      error = np.linalg.norm(np.asarray(a) - np.asarray(b)) / max(np.linalg.norm(b), 1e-6)
      assert error < 2e-5, f"{name} of {path} is off by {error:.1e} on {sizes}"
  where = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), after, shardings)
  assert all(jax.tree.leaves(where))


@pytest.mark.parametrize("devices, heads, expected", [
    (1, 12, (1, 1)), (2, 12, (2, 1)), (4, 12, (4, 1)), (5, 12, (1, 5)), (6, 12, (6, 1)), (8, 12, (4, 2)), (16, 12, (4, 4)),
    (8, 8, (8, 1)),
])
def test_heads_are_dealt_before_keys_are_gathered(devices, heads, expected):
  assert sequence.degrees(devices, heads) == expected


def _meshed(sizes):
  return jax.set_mesh(meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))]))


SEGMENTS = {  # names, lengths and masks: as in the encoder stage with image tokens, and as in the decoder
    "encoder": (("video", None, None), (24, 3, 5), (None, None, np.arange(5)[None] < np.array([[5], [2]]))),
    "decoder": (("video", "video"), (24, 24), (None, None)),
}


def _attention(kind, backend):
  """(loss of the attention's output, its inputs): q, k and v of each segment."""
  names, lengths, masks = SEGMENTS[kind]
  parts = [jax.random.normal(jax.random.key(i), (3, 2, n, HEADS, 4)) for i, n in enumerate(lengths)]

  def loss(parts):
    out = attention.attend(*(tuple(p[i] for p in parts) for i in range(3)), masks, backend=backend, names=names)
    return sum(jnp.sum(jnp.sin(x * (i + 1))) for i, x in enumerate(out)), out

  return jax.value_and_grad(loss, has_aux=True), parts


@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.parametrize("backend", ["xla", "chunked"])
@pytest.mark.parametrize("sizes", [(1, 1, 8), (1, 1, 6), (1, 2, 4), (2, 1, 3)])
def test_attention_over_devices_is_attention(monkeypatch, sizes, backend, kind):
  monkeypatch.setattr(attention, "CHUNK", 5)
  function, parts = _attention(kind, "xla")
  alone = function(parts)
  with _meshed(sizes):
    spread = jax.jit(_attention(kind, backend)[0])(parts)
  for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(alone)):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_chunked_attention_over_devices_never_holds_all_logits(monkeypatch):
  monkeypatch.setattr(attention, "CHUNK", 4)
  sizes = {}
  for backend in ("xla", "chunked"):
    function, parts = _attention("decoder", backend)
    with _meshed((1, 1, 8)):
      text = jax.jit(function).lower(parts).compile().as_text()
    sizes[backend] = [b.bytes for b in compiled.largest_buffers(text, 5)]
  logits = 2 * (HEADS // 4) * (48 // 2) * 48 * 4  # (B, heads of a device, queries of a device, keys) in float32
  assert logits in sizes["xla"] and max(sizes["chunked"]) < logits


def test_routing_costs_no_collective():
  def there_and_back(key, x):
    route = routing.draw(key, B, 48, keep=0.5, groups=GROUPS, policy="random")
    kept, bypass = routing.leave(x, route)
    return jnp.sum(jnp.sin(routing.rejoin(jnp.cos(kept), bypass, route)))

  with _meshed((2, 1, 4)):
    x = jax.device_put(jnp.ones((B, 48, 6)), jax.sharding.PartitionSpec("data", "sequence"))
    text = jax.jit(jax.grad(there_and_back, argnums=1)).lower(jax.random.key(0), x).compile().as_text()
  assert compiled.collectives(text) == []
  assert "scatter" not in text


@functools.cache
def _exchanged():
  """(config, text of the compiled gradient of the whole network, its sequence over four devices)."""
  cfg, mesh = _config(), meshes.make_mesh(MeshConfig(1, 1, 4), devices=jax.devices()[:4])
  params, inputs = _params(cfg)["model"], _inputs(cfg)

  def loss(params, x):
    velocity, _ = transformer.apply(params, cfg, x["latents"], x["t"], x["text"], text_mask=x["text_mask"], image=x["image"])
    return jnp.mean(jnp.square(velocity - x["target"]))

  shardings = sharding.parameter_shardings(params, mesh)
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, shardings), meshes.global_batch(mesh, inputs)
    return cfg, jax.jit(jax.grad(loss), out_shardings=shardings).lower(*placed).compile().as_text()


def test_a_block_exchanges_tokens_for_heads_and_nothing_else():
  cfg, text = _exchanged()
  found = [c for c in compiled.collectives(text) if c.bytes > 5000]  # what is left out are tables of angles
  blocks = sum(dataclasses.asdict(cfg.depths).values())
  # Into heads and out of them: in the forward pass, in the rematerialised one, and back.  Keys and values without queries, those
  # of the encoder's tokens in the last decoder block, travel in a message of their own.
  assert sum(c.count for c in found if c.kind == "all-to-all") == 6 * blocks + 3
  assert not [c for c in found if c.kind == "collective-permute"]
  gathers = [line for line in text.split("\n") if " all-gather(" in line]
  text_or_image = re.compile(r"f32\[8,[35],\d+\]")  # (B, T or I, features), whole already; attention's heads of it are (B, T, N, dh)
  assert gathers and not [line for line in gathers if text_or_image.search(line)]


def _products_around(text, wanted):
  """For each instruction that is `wanted`: it, the products that it waits for, those that wait for it, those that do neither."""
  module = compiled.parse(text)
  holds = lambda i: i.op == "dot" or any(holds(j) for name in compiled.called(i) for j in module[name])
  for instructions in module.values():
    if not any(map(wanted, instructions)):
      continue
    before, products = {}, {i.name: i for i in instructions if holds(i)}
    for i in instructions:  # operands come first
      before[i.name] = set().union(*(before[o] | {o} for o in i.operands if o in before))
    for i in filter(wanted, instructions):
      waited = before[i.name] & set(products)
      waiting = {name for name in products if i.name in before[name]}
      yield i, waited, waiting, [products[name] for name in products if name not in waited | waiting]


def test_no_gather_of_a_weight_waits_for_a_product():
  """So a scheduler may begin each as early as it likes, and attention may hide those of what comes behind it."""
  _, text = _exchanged()
  weights = lambda i: i.op == "all-gather" and "while/body" in i.attributes and "shard_map" not in i.attributes
  found = list(_products_around(text, weights))
  assert len(found) > 80 and all(waiting and not waited for _, waited, waiting, _ in found)


def test_beside_the_exchange_of_tokens_stands_the_mlp_of_a_single_stream_block():
  _, text = _exchanged()
  found = list(_products_around(text, lambda i: i.op == "all-to-all" and "SingleBlock" in i.attributes))
  assert len(found) > 20
  for exchange, _, _, beside in found:
    assert any("mlp" in i.attributes for i in beside), exchange
