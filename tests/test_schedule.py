"""The schedule of buckets: steps by shares, patterns and weights, batches of about equally many tokens."""

import numpy as np
import pytest

from motif_jax.config import BucketConfig
from motif_jax.data import order, record, schedule
from motif_jax.data.dataset import Dataset, Meta, Part
from tests import small_data

BUCKETS = tuple(BucketConfig(frames, 16 * size, 24 * size) for frames in (1, 9) for size in (1, 2))
COUNTS = (600, 100, 200, 100)


def make(counts=COUNTS, *, patch=(1, 2, 2), **changes):
  """The schedule of `BUCKETS`, whose clips have 6, 24, 18 and 72 tokens of that patch."""
  parts = [Part(b, record.Spec(((b.frames - 1) // 4 + 1, b.height // 4, b.width // 4), 3, 5, (2, 2), 4), n)
           for b, n in zip(BUCKETS, counts)]
  meta = Meta(codec={}, text={}, teacher={}, text_empty=np.zeros((1, 5)), parts=tuple(parts), fingerprint="")
  origins = (0, 0, 1, 1) if "mixture" in changes else (0,) * 4
  opened = Dataset(meta, sources=(), origins=origins)
  return schedule.make_schedule(small_data.config(batch_size=2, **changes), opened, counts, patch=patch)


def chosen(made, steps):
  """The bucket of each of the first `steps` steps; also checks that batches of a bucket are numbered from 0."""
  taken = [made.at(step) for step in range(steps)]
  for number in range(len(BUCKETS)):
    assert [before for n, before in taken if n == number] == list(range(sum(n == number for n, _ in taken)))
  return np.array([number for number, _ in taken])


def test_buckets_are_taken_as_evenly_as_their_data_allows():
  taken = chosen(make(), 1000)
  assert np.bincount(taken).tolist() == [600, 100, 200, 100]
  for number, share in enumerate(np.array(COUNTS) / 1000):
    gaps = np.diff(np.flatnonzero(taken == number))
    assert gaps.max() <= 1 / share + 2 and gaps.min() >= max(1, 1 / share - 2)


@pytest.mark.parametrize("shares", [(1.0,), (1, 1), (3, 1, 1e-4), tuple(range(1, 30)), (0.1, 0.2, 0.3, 0.4)])
def test_each_turn_is_dealt_once_and_counted_at_any_distance(shares):
  for start in (0, 10**9):
    before = order.dealt(shares, start)[0]
    for turn in range(start, start + 200):
      found, member = order.dealt(shares, turn)
      assert found.tolist() == before.tolist() and found.sum() == turn
      assert np.abs(found - turn * np.array(shares) / np.sum(shares)).max() <= 1 + 0.5 * len(shares)
      before[member] += 1


def test_a_pattern_gives_each_step_its_kind_and_shares_it_by_data():
  taken = chosen(make(pattern=("image", "video", "video")), 3000)
  assert ((taken < 2) == (np.arange(3000) % 3 == 0)).all()
  assert np.bincount(taken).tolist() == pytest.approx([1000 * 6 / 7, 1000 / 7, 2000 * 2 / 3, 2000 / 3], abs=1)


def test_weights_are_shares_of_steps():
  assert np.bincount(chosen(make(weights=(("image", 700.0), ("9x16x24", 100.0), ("9x32x48", 200.0))), 1000)).tolist() == [
      600, 100, 100, 200]


def test_weight_0_leaves_a_bucket_out_also_one_that_is_smaller_than_a_batch():
  made = make((600, 1, 200, 1), weights=(("1x16x24", 1.0), ("9x16x24", 3.0), ("*x32x48", 0.0)))
  assert np.bincount(chosen(made, 400)).tolist() == [100, 0, 300]


def test_weights_act_inside_the_steps_of_a_pattern():
  made = make(pattern=("image", "video"), weights=(("1x*", 1.0), ("9x16x24", 1.0), ("9x32x48", 3.0)))
  assert np.bincount(chosen(made, 800))[2:].tolist() == [100, 300]


def test_data_sets_of_a_mixture_have_their_shares_of_the_samples_and_buckets_theirs_within():
  made = make(mixture=(("a", 3.0), ("b", 1.0)))  # of 600 + 100 and of 200 + 100 records
  assert np.bincount(chosen(made, 2800)).tolist() == pytest.approx([1800, 300, 700 * 2 / 3, 700 / 3], abs=1)


def test_batches_of_a_token_budget_cost_alike_and_are_multiples_of_the_batch_size():
  made = make(batch_tokens=150)  # clips of 6, 24, 18, 72 tokens
  assert made.rows == (24, 6, 8, 2)
  assert np.bincount(chosen(made, 117)).tolist() == [25, 17, 25, 50]  # 600 / 24, 100 / 6, 200 / 8, 100 / 2


@pytest.mark.parametrize("changes", [dict(), dict(pattern=("image", "video", "video", "image")), dict(batch_tokens=500)])
def test_steps_planned_are_steps_taken(changes):
  made = make(**changes)
  for steps in (0, 1, 7, 101):
    assert made.planned(steps).tolist() == np.bincount(chosen(made, steps).astype(int), minlength=4).tolist()


@pytest.mark.parametrize("changes, said", [
    (dict(weights=(("image", 1.0), ("9x16x42", 1.0))), "data.weights names '9x16x42', .* did you mean '9x16x24'?"),
    (dict(pattern=("imag",)), "data.pattern names 'imag', .* did you mean 'image'?"),
    (dict(weights=(("image", 1.0),)), "data.weights says nothing of the buckets 9x16x24, 9x32x48"),
    (dict(weights=(("image", 1.0), ("1x16x24", 1.0), ("video", 1.0))), "gives bucket 1x16x24 a weight twice, by 'image' and"),
    (dict(pattern=("image", "9x16x24")), "has no step for the buckets 9x32x48"),
    (dict(pattern=("image", "1x16x24", "video")), "names bucket 1x16x24 in two ways"),
    (dict(pattern=("image", "video"), weights=(("image", 0.0), ("video", 1.0))), "'image', whose buckets all have weight 0"),
    (dict(batch_tokens=143), "batch_tokens 143 is less than data.batch_size 2 rows of bucket 9x32x48, which have 72 tokens"),
])
def test_what_does_not_fit_the_data_is_said(changes, said):
  with pytest.raises(ValueError, match=said):
    make(**changes)


def test_a_batch_larger_than_a_bucket_is_named_with_both_counts():
  with pytest.raises(ValueError, match="1x32x48 has 1 of 2.*weight 0"):
    make((600, 1, 200, 100))
