"""Orders of records: permutations that are found anywhere; lanes of shards that move no record further than their window."""

import numpy as np
import pytest

from motif_jax.data import order

SHARDS = [  # records of each shard, lanes, window of a lane
    ((5, 3, 9, 1, 7), 4, 4), ((20,) * 37, 8, 16), ((10, 0, 3), 2, 5), ((40,), 1, 8), ((1,) * 29, 8, 2),
]


@pytest.mark.parametrize("lengths, lanes, window", SHARDS)
def test_every_record_comes_once_an_epoch_and_no_epoch_is_like_another(lengths, lanes, window):
  stream = order.Shards(lengths, lanes, window, seed=(3, 1))
  epochs = stream.places(np.arange(4 * stream.count)).reshape(4, -1).tolist()
  assert all(sorted(epoch) == list(range(stream.count)) for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 4


@pytest.mark.parametrize("lengths, lanes, window", SHARDS)
def test_a_lane_reads_shards_from_first_record_to_last_and_no_further_ahead_than_its_window(lengths, lanes, window):
  stream = order.Shards(lengths, lanes, window, seed=(3, 1))
  rows = np.arange(stream.count, 2 * stream.count)
  turns = stream.turns(rows)
  assert set(turns.epoch) == {1} and np.abs(turns.turn - turns.position).max() < window
  stored = stream.stored(1, stream.start(turns.span) + turns.position)
  np.testing.assert_array_equal(stored, stream.places(rows))
  starts, entered = np.cumsum(lengths) - lengths, 0
  for lane in range(lanes):
    ours = rows % lanes == lane
    assert len(set(turns.span[ours])) == 1 and abs(ours.sum() - stream.count / lanes) < 1
    read = stored[ours][np.argsort(turns.position[ours])]
    jumps = read[1:][np.diff(read) != 1]
    assert set(jumps) <= set(starts)
    entered += 1 + len(jumps)
  assert entered <= len(lengths) + lanes - 1  # each shard once, and once more where the next lane goes on with it


def test_a_window_mixes_all_that_it_holds():
  stream = order.Shards((2000,), 1, 50, seed=(0,))
  turns = stream.turns(np.arange(2000))
  moved = np.abs(turns.turn - turns.position)
  assert moved.max() > 40 and 10 < moved.mean() < 25


def test_rows_are_found_without_those_before():
  stream = order.Shards((7, 12, 30), 4, 6, seed=(5,))
  whole = stream.places(np.arange(490))
  picked = np.array([480, 3, 77, 3, 250])
  np.testing.assert_array_equal(stream.places(picked), whole[picked])


@pytest.mark.parametrize("count", [1, 2, 5, 16, 17, 1000])
def test_shuffling_is_a_permutation(count):
  places = np.arange(count)
  epochs = [order.shuffled(places, count, seed=(7, epoch)) for epoch in range(3)]
  assert all(sorted(epoch) == places.tolist() for epoch in epochs)
  if count > 16:
    assert abs(np.corrcoef(epochs[0], places)[0, 1]) < 0.5 and (epochs[0] != epochs[1]).any()


def test_shuffling_puts_each_record_everywhere_equally_often():
  count, trials = 11, 4000
  seen = np.zeros((count, count))
  for trial in range(trials):
    seen[np.arange(count), order.shuffled(np.arange(count), count, seed=(trial,))] += 1
  expected = trials / count
  assert ((seen - expected) ** 2 / expected).sum() < 100 + 6 * np.sqrt(2 * 100)  # chi-squared of 10 x 10, six deviations
