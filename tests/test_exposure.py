"""Claims about what of a step's communication nothing hides: the bytes are traffic's, the links the mesh's, the windows the blocks'."""

import collections

import pytest

from motif_jax import config
from motif_jax.budget import exposure, flops, traffic, workload
from motif_jax.budget.devices import DEVICES
from motif_jax.model.plan import make_plan
from tests import tiny

H200, TOKENS = DEVICES["h200"], workload.Tokens(4800, 20)


def _config(**model):
  c = tiny.config_dict()
  c.model.update(dict(width=96, heads=12, rope_axes=(4, 2, 2), remat="block") | model)
  c.route.update(dict(stop=2, keep=0.5))
  return config.from_config_dict(c)


def _rows(sizes, cfg=_config(), *, plan=None, accumulate=1, utilisation=0.4):
  split = workload.make_split(sizes, cfg.model.heads, accumulate=accumulate)
  plan = plan or make_plan(cfg.model.depths)
  found = exposure.rows_of(cfg, TOKENS, plan, split, 2 * accumulate, H200, utilisation=utilisation)
  told = traffic.sent(traffic.step_traffic(cfg, TOKENS, plan, split, 2 * accumulate))
  return found, told


@pytest.mark.parametrize("sizes", [(1, 8, 1), (1, 1, 8), (2, 2, 2), (8, 1, 8), (4, 4, 4)])
@pytest.mark.parametrize("accumulate, model", [(1, {}), (3, dict(remat="none")), (1, dict(remat="attention", dtype="bfloat16"))])
def test_the_bytes_are_those_of_the_traffic(sizes, accumulate, model):
  cfg = _config(**model)
  plan = make_plan(cfg.model.depths, (1, 3), None)
  found, told = _rows(sizes, cfg, plan=plan, accumulate=accumulate)
  assert sum(row.sent for row in found) == pytest.approx(sum(told.values()), rel=1e-9)
  assert sum(row.sent for row in found if row.what.startswith("weights")) < told["weights"]  # the rest lies outside the blocks


def test_one_device_sends_nothing():
  assert _rows((1, 1, 1))[0] == []


@pytest.mark.parametrize("sizes, between", [
    ((1, 8, 1), set()), ((2, 2, 2), set()), ((8, 1, 8), {"all-reduce"}), ((1, 2, 8), {"all-gather", "reduce-scatter", "all-reduce"})])
def test_only_groups_larger_than_a_node_use_the_network(sizes, between):
  found, _ = _rows(sizes)
  assert {row.kind for row in found if row.network} == between
  assert {row.kind for row in found if row.network and row.kind == "all-to-all"} == set()
  assert all(row.network == bool(between) for row in found if row.what.endswith("over data"))
  for row in found:
    assert row.seconds == pytest.approx(row.sent / (50e9 if row.network else 450e9))


def test_behind_slow_work_remains_what_nothing_stands_beside():
  found, _ = _rows((2, 1, 4), utilisation=1e-9)
  left = {row.what for row in found if row.exposed}
  assert left == {"weights in front of attention", "gradients", "gradients, over data", "gradients, small ones", "outside the blocks",
                  "outside the blocks, over data", "outside the blocks, small ones", "tokens into heads", "heads into tokens", "text"}
  found, _ = _rows((1, 1, 8), utilisation=1e-9)
  assert all(row.exposed == row.seconds for row in found if (row.what, row.kind) == ("keys and values", "all-gather"))
  single, _ = _rows((2, 1, 4), _config(depths=dict(dual=0, single=2, decoder=2)), utilisation=1e-9)
  assert not [row for row in single if row.exposed and row.kind == "all-to-all"]  # beside the MLP


def test_behind_work_that_takes_no_time_all_is_exposed():
  found, _ = _rows((2, 1, 4), utilisation=1e12)
  assert sum(row.exposed for row in found) == pytest.approx(sum(row.seconds for row in found), rel=1e-6)


def _hidden(sizes, cfg, rate):
  """Name -> FLOPs of the work that hides such messages, where it runs at `rate` times the peak and is used up."""
  hidden = collections.Counter()
  for row in _rows(sizes, cfg, utilisation=rate)[0]:
    hidden[row.what] += (row.seconds - row.exposed) * rate * H200.flops
  return +hidden


def test_attention_hides_weights_for_as_long_as_it_takes():
  cfg = _config()
  plan, split = make_plan(cfg.model.depths), workload.make_split((1, 8, 1), cfg.model.heads)
  executed = flops.executed(cfg, TOKENS, plan, split).values()
  assert _hidden((1, 8, 1), cfg, 1e6) == {"weights behind attention": pytest.approx(2 * sum(part.attention for part in executed))}


def test_the_mlp_of_a_single_stream_block_hides_its_exchange_for_as_long_as_it_takes():
  cfg = _config(depths=dict(dual=0, single=2, decoder=0))
  found = _hidden((2, 1, 4), cfg, 1e6)
  mlp = lambda tokens: 2 * 2 * cfg.model.mlp_ratio * 96**2 * tokens  # two layers, of 2 FLOPs for each weight and token
  once = mlp(TOKENS.video / 4 + TOKENS.text) + mlp(TOKENS.video / 4)  # the last block leaves the text unread
  del found["weights behind attention"]
  assert sum(found.values()) == pytest.approx(2 * 4 * once)  # two rows; forward, again, and twice on the way back
