"""The simulated long-tailed problem: what ways to deal clips to ranks use of it."""

import dataclasses

import numpy as np
import pytest

from motif_jax.data import simulation
from tests import small_data


@pytest.fixture(scope="module")
def problem():
  return simulation.make_problem(ranks=8, shards=200, per_shard=60)


def test_shards_dealt_to_ranks_use_little_and_ours_uses_all(problem):
  naive, planned = (simulation.share_used(problem, deal(problem)) for deal in (simulation.dealt, simulation.greedy))
  assert naive < 0.4 < 0.5 < planned < 0.9
  for order, least in (("random", 0.99), ("shards", 0.95)):
    used = simulation.ours(problem, small_data.config(batch_size=8, order=order, window=64), per_shard=32)
    assert least <= used.share <= 1 and used.again == 0


def test_ranks_that_share_a_lane_read_it_more_than_once(problem):
  used = simulation.ours(dataclasses.replace(problem, ranks=16), small_data.config(batch_size=16, order="shards"), per_shard=32)
  assert used.again == 0
  monkey = simulation.pipeline.stream_of
  halved = lambda *args: dataclasses.replace(monkey(*args), lanes=8)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(simulation.pipeline, "stream_of", halved)
    used = simulation.ours(dataclasses.replace(problem, ranks=16), small_data.config(batch_size=16, order="shards"), per_shard=32)
  assert 0.9 < used.again <= 1


def test_a_rank_without_a_bucket_ends_it_for_all():
  clips = np.array([[4, 0], [4, 6], [2, 6], [2, 0]])
  made = simulation.Problem(clips, ranks=2)
  assert simulation.share_used(made, np.array([0, 1, 1, 0])) == pytest.approx(12 / 24)  # 6 and 6 of the first, none of the second
  assert simulation.share_used(made, simulation.greedy(made)) == pytest.approx(1)
