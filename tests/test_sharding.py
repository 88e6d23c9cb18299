"""Claims about the sharding table: complete at full size, strict, and followed by a whole train state."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from configs import motif_2b
from motif_jax import config, mesh as meshes, sharding
from motif_jax.config import MeshConfig
from motif_jax.model import alignment, lora, transformer
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import abstract_state, init_state
from tests import tiny

SHARDS = ("fsdp", "sequence")


def _abstract_parameters(change):
  c = motif_2b.get_config()
  change(c)
  cfg = config.from_config_dict(c)
  params = lambda key: {"model": transformer.init(key, cfg.model),
                        "projector": alignment.init_projector(key, cfg.alignment, cfg.model.width)}
  return jax.eval_shape(params, jax.random.key(0))


LAYOUTS = {
    "released": lambda c: None,
    "separate": lambda c: c.model.cross_attention.update(dict(kind="separate", query_norm="none", dual=True)),
    "bare": lambda c: (c.model.cross_attention.update(dict(kind="none", query_norm="none")),
                       c.model.update(dict(image_dim=0))),
}


def _abstract_adapter():
  model = config.from_config_dict(motif_2b.get_config()).model
  return jax.eval_shape(lambda key: lora.init(key, model, rank=32, targets=("*",)), jax.random.key(0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_of_the_2b_model_has_exactly_one_rule(layout):
  for path, leaf in sharding.paths_of(_abstract_parameters(LAYOUTS[layout])):
    sharding.spec_of(sharding.parameter_name(path), leaf.shape)  # raises


def test_every_rule_is_used_by_some_layout():
  trees = [_abstract_parameters(change) for change in LAYOUTS.values()] + [_abstract_adapter()]
  paths = [sharding.parameter_name(path) for tree in trees for path, _ in sharding.paths_of(tree)]
  for pattern, _ in sharding.RULES:
    assert any(sharding.re.fullmatch(pattern, path) for path in paths), pattern


def test_at_2b_no_split_moves_and_eight_devices_hold_an_eighth_each():
  params = _abstract_parameters(LAYOUTS["released"])
  for path, leaf in sharding.paths_of(params):
    name = sharding.parameter_name(path)
    assert sharding.fitted_spec(name, leaf.shape, 8) == sharding.spec_of(name, leaf.shape), path
  whole = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  for sizes in ((1, 8, 1), (1, 1, 8), (1, 2, 4)):
    shardings = sharding.parameter_shardings(params, meshes.make_mesh(MeshConfig(*sizes)))
    assert whole / 8 <= sharding.bytes_per_device(params, shardings) < 1.01 * whole / 8


def test_an_adapter_of_every_kernel_is_split_where_the_table_says():
  for path, leaf in sharding.paths_of(_abstract_adapter()):
    assert sharding.fitted_spec(path, leaf.shape, 8) == sharding.spec_of(path, leaf.shape), path


@pytest.mark.parametrize("path", [
    "single/attention/gate/kernel", "single/lora/down/kernel", "video_embed/weight", "other/mlp/up/kernel"])
def test_a_parameter_without_a_rule_is_an_error(path):
  with pytest.raises(ValueError, match="matches 0 sharding rules"):
    sharding.spec_of(path, (2, 3, 4))


def test_a_parameter_with_two_rules_is_an_error(monkeypatch):
  monkeypatch.setattr(sharding, "RULES", sharding.RULES + ((r"single/mlp/.*", P()),))
  with pytest.raises(ValueError, match="matches 2 sharding rules"):
    sharding.spec_of("single/mlp/up/kernel", (2, 3, 4))


@pytest.mark.parametrize("shape, spec", [
    ((8, 12, 6), P(None, SHARDS, None)),  # as the table has it
    ((8, 6, 12), P(None, None, SHARDS)),  # moved to the other axis
    ((8, 6, 6), P()),  # not to the layer axis, although that would divide
])
def test_an_axis_that_does_not_divide_passes_its_split_on(shape, spec):
  assert sharding.fitted_spec("dual/video/mlp/up/kernel", shape, 4) == spec


@pytest.mark.parametrize("kind, moments", [("adamw", 2), ("muon", 1)])
def test_moments_and_average_lie_where_their_parameter_lies(kind, moments):
  c = tiny.config_dict()
  c.optimizer.kind = kind
  cfg = config.from_config_dict(c)
  state = abstract_state(cfg, make_optimizer(cfg.optimizer, steps=10))
  shardings = sharding.state_shardings(state, meshes.make_mesh(MeshConfig(2, 2, 2)))
  found = {path: s.spec for path, s in sharding.paths_of(shardings)}
  parameters = {path.removeprefix("params/"): spec for path, spec in found.items() if path.startswith("params/")}
  matrix = "single/mlp/up/kernel"
  assert parameters[f"model/{matrix}"] == P(None, SHARDS, None)
  assert [spec for path, spec in found.items() if path.endswith(matrix)] == [P(None, SHARDS, None)] * (2 + moments)
  for path, spec in found.items():
    name = path.split("/ema/")[-1].split("/mu/")[-1].split("/nu/")[-1].removeprefix("params/").removeprefix("ema/")
    assert spec == parameters.get(name, parameters.get(f"model/{name}", P())), path


def test_a_big_array_that_mirrors_no_parameter_is_an_error():
  cfg = tiny.make_config()
  state = abstract_state(cfg, make_optimizer(cfg.optimizer, steps=10))
  state = state.replace(opt_state=(state.opt_state, {"row_sums": jax.ShapeDtypeStruct((100, 100), jnp.float32)}))
  with pytest.raises(ValueError, match="row_sums .* mirrors no parameter"):
    sharding.state_shardings(state, meshes.make_mesh(MeshConfig(2, 2, 2)))


def test_a_new_state_is_born_on_the_devices_that_the_table_names():
  cfg, mesh = tiny.make_config(), meshes.make_mesh(MeshConfig(2, 2, 2))
  optimizer = make_optimizer(cfg.optimizer, steps=10)
  state = init_state(jax.random.key(0), cfg, mesh, optimizer)
  shardings = sharding.state_shardings(state, mesh)
  assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings)))
  for device in (0, 7):
    held = sum(x.addressable_shards[device].data.nbytes for x in jax.tree.leaves(state))
    assert held == sharding.bytes_per_device(state, shardings) < 0.5 * sum(x.nbytes for x in jax.tree.leaves(state))
