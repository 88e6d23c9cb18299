"""The order of the data is a function of (seed, step): the same from any start, on any number of processes and workers."""

import dataclasses
import itertools

import numpy as np
import pytest

from motif_jax import endings
from motif_jax.data import dataset, order as orders, pipeline, schedule as schedules, sources
from tests import small_data
from tests.small_data import IMAGE, VIDEO


ORDERS = pytest.mark.parametrize("order", ["random", "shards"])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
  return dataset.open_dataset(small_data.write(tmp_path_factory.mktemp("data") / "set", {VIDEO: 13, IMAGE: 6}))


def take(count, cfg, opened, **options):
  """The first `count` (bucket, batch) of the pipeline."""
  batches = pipeline.batches(cfg, opened, **{"seed": 3} | options)
  taken = list(itertools.islice(batches, count))
  batches.close()
  return taken


def assert_equal(got, expected):
  assert len(got) == len(expected)
  for (bucket, batch), (other_bucket, other) in zip(got, expected):
    assert bucket == other_bucket and set(batch) == set(other)
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name, strict=True)


def numbers(batch):
  """Which records are in a batch: `small_data.record` writes its number into the first latent."""
  return batch["latents"][:, 0, 0, 0, 0].astype(int).tolist()


def _order(counts, rows=4):
  """The `Order` of buckets of that many records, all data equally often."""
  schedule = schedules.Schedule((rows,) * len(counts), tuple(map(float, counts)), (tuple(range(len(counts))),), (0.0,) * len(counts))
  return pipeline.Order(schedule, tuple(orders.Random(count, seed=(0, n)) for n, count in enumerate(counts)), seed=0)


def test_a_batch_holds_its_records_in_the_promised_shapes(opened):
  for bucket, batch in take(4, small_data.config(), opened):
    spec = small_data.SPECS[bucket]
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    f16 = np.dtype(np.float16)
    assert shapes == dict(latents=((4, *spec.grid, 5), f16), first_frame=((4, 4, *spec.grid[1:], 5), f16),
                          teacher=((4, spec.grid[0], 2, 4, 9), f16), text=((4, 6, 7), f16), text_mask=((4, 6), np.dtype(bool)))
    for row, number in enumerate(numbers(batch)):
      record = small_data.record(bucket, number)
      for name in ("latents", "first_frame", "teacher"):
        np.testing.assert_array_equal(batch[name][row], record[name])


@ORDERS
def test_a_run_goes_on_where_another_stopped(opened, order):
  cfg = small_data.config(order=order)
  assert_equal(take(4, cfg, opened, start_step=5), take(9, cfg, opened)[5:])


class Damaged:
  """A source some of whose records cannot be read, or are gone."""

  def __init__(self, source, errors):
    self._source, self._errors, self.digests, self.shards = source, errors, source.digests, source.shards

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    if index in self._errors:
      raise self._errors[index]
    return self._source[index]


def test_a_record_that_cannot_be_read_is_replaced_by_the_next_and_moves_no_other(opened):
  errors = {0: {4: RuntimeError("hash mismatch"), 5: FileNotFoundError("gone")}, 1: {12: OSError("input/output error")}}
  damaged = dataclasses.replace(opened, sources=tuple(Damaged(s, errors[i]) for i, s in enumerate(opened.sources)))
  lost, instead = {}, {IMAGE: {4: 0, 5: 0}, VIDEO: {12: 0}}  # of 6 and 13 records: 5 is followed by 0, and so is 12
  got = take(19, small_data.config(lost_records=0.2), damaged, lost=lost)
  for (bucket, batch), (_, whole) in zip(got, take(19, small_data.config(), opened), strict=True):
    assert numbers(batch) == [instead[bucket].get(number, number) for number in numbers(whole)]
    assert set(batch) == set(whole)
  assert sorted(lost) == ["1x24x32, training record 4", "1x24x32, training record 5", "5x24x32, training record 12"]
  assert lost["1x24x32, training record 4"] == "RuntimeError: hash mismatch"


def test_validation_too_takes_the_next_where_one_cannot_be_read(opened):
  damaged = dataclasses.replace(opened, sources=tuple(Damaged(s, {2: OSError("gone")}) for s in opened.sources))
  seen = {n for _, batch in pipeline.validation_batches(small_data.config(validation=1.0), damaged, count=8) for n in numbers(batch)}
  assert 2 not in seen and seen >= {0, 1, 3, 4, 5}


def test_more_lost_records_than_allowed_end_the_run_with_their_names(opened):
  damaged = dataclasses.replace(opened, sources=tuple(Damaged(s, {2: OSError("gone")}) for s in opened.sources))
  with pytest.raises(endings.Ending, match=r"(?s)2 records cannot be read, data.lost_records allows 1.*1x24x32, training record 2"):
    take(19, small_data.config(lost_records=1.5 / 19), damaged)


def test_another_seed_is_another_order(opened):
  plain, other = take(6, small_data.config(), opened), take(6, small_data.config(), opened, seed=4)
  assert [numbers(b) for _, b in plain] != [numbers(b) for _, b in other]


def test_workers_change_nothing(opened):
  cfg = small_data.config()
  assert_equal(take(7, small_data.config(workers=2), opened, start_step=2), take(7, cfg, opened, start_step=2))


@ORDERS
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch(opened, count, order):
  cfg = small_data.config(order=order)
  parts = [take(5, cfg, opened, process_index=i, process_count=count) for i in range(count)]
  joined = [(rows[0][0], {name: np.concatenate([batch[name] for _, batch in rows]) for name in rows[0][1]})
            for rows in zip(*parts)]
  assert_equal(joined, take(5, cfg, opened))


def test_each_record_is_seen_once_before_any_is_seen_twice():
  order = _order(counts=(13, 6))
  seen = {0: [], 1: []}
  for step in range(19 * 4):  # four times through everything: 19 steps of 4 rows
    number, places = order.at(step)
    seen[number] += places.tolist()
  for number, count in enumerate((13, 6)):
    assert len(seen[number]) == 4 * 4 * count
    epochs = [tuple(seen[number][i:i + count]) for i in range(0, len(seen[number]), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_shards_are_read_from_first_record_to_last_and_no_record_alone(opened, monkeypatch):
  runs, read, scan = [], [], sources.ArrayRecordSource.scan

  def watched(self, indices):
    runs.append(indices)
    return map(lambda found: read.append(found[0]) or found, scan(self, indices))

  monkeypatch.setattr(sources.ArrayRecordSource, "scan", watched)
  monkeypatch.setattr(sources.ArrayRecordSource, "__getitem__", lambda self, index: pytest.fail("a record was read alone"))
  cfg = small_data.config(order="shards", window=24)
  seen = [(bucket, n) for bucket, batch in take(19, cfg, opened) for n in numbers(batch)]  # four epochs of 13 + 6 records
  assert all(seen.count((bucket, n)) == 4 for bucket, count in ((VIDEO, 13), (IMAGE, 6)) for n in range(count))
  assert 76 <= len(read) <= 76 + 19  # no more than the rest of an epoch ahead
  assert all(np.diff(indices).tolist() == [1] * (len(indices) - 1) and len({i // 5 for i in indices}) == 1 for indices in runs)
  assert len(runs) <= 4 * (3 + 3) + 4 * (2 + 3) + 2 * 4  # an epoch has 3 and 2 shards, which 4 lanes cut at 3 places; and ahead
  take(6, cfg, opened, start_step=5)  # nor after a restart


def test_processes_have_lanes_of_their_own_whatever_the_rows_of_a_batch():
  stream = orders.Shards((40, 24), lanes=4, window=3, seed=(1,))
  order = pipeline.Order(schedules.Schedule((12,), (1.0,), ((0,),), (0.0,)), (stream,), seed=0)
  for step in range(7):
    rows = order.rows(step)[1]
    assert sorted(rows) == list(range(12 * step, 12 * step + 12))
    assert [set(rows[pipeline.Share(i, 2).of(12)] % 4) for i in range(2)] == [{0, 1}, {2, 3}]


def test_records_that_cannot_be_read_in_order_are_read_alone(opened, monkeypatch):
  cfg = small_data.config(order="shards")
  whole = take(6, cfg, opened)
  scan = sources.ArrayRecordSource.scan
  monkeypatch.setattr(sources.ArrayRecordSource, "scan", lambda self, indices: (f for f in scan(self, indices) if f[0] % 5 < 2))
  assert_equal(take(6, cfg, opened), whole)


def test_any_step_is_found_without_those_before():
  counts = (1000, 10_000_000, 77)
  order = _order(counts)
  first = [order.at(step) for step in (10**9, 0, 10**9)]
  assert first[0][0] == first[2][0] and first[0][1].tolist() == first[2][1].tolist()
  assert all(places.max() < counts[number] for number, places in first)


def test_captions_are_chosen_and_dropped_at_the_configured_shares(opened):
  cfg = small_data.config(caption_drop=0.2, captions=(0.5, 0.3, 0.2))
  indices = pipeline.split_indices(opened, cfg.validation)[0]
  order = pipeline.make_order(cfg, opened, indices, seed=0, patch=(1, 1, 1))
  loader = pipeline.Loader(cfg, opened, indices, order, pipeline.Share(0, 1))
  lengths = np.concatenate([loader(step)[1]["text_mask"].sum(axis=1) for step in range(250)])
  shares = [np.mean(lengths == length) for length in (1, 5, 3, 4)]  # dropped, long, short, truncated
  np.testing.assert_allclose(shares, [0.2, 0.4, 0.24, 0.16], atol=0.06)  # four deviations of 1000 draws


def test_a_dropped_caption_is_the_encoding_of_the_empty_one(opened):
  for _, batch in take(2, small_data.config(caption_drop=1.0), opened):
    assert batch["text_mask"].sum(axis=1).tolist() == [1] * 4
    assert (batch["text"][:, 0] == 2).all() and (batch["text"][:, 1:] == 0).all()


@pytest.mark.parametrize("captions, name", [((1.0, 0.0, 0.0), "text_long"), ((0.0, 1.0, 0.0), "text_short"),
                                            ((0.0, 0.0, 1.0), "text_truncated")])
@pytest.mark.parametrize("tokens", [4, 9])
def test_text_is_padded_or_cut_on_the_right(opened, captions, name, tokens):
  cfg = small_data.config(caption_drop=0.0, captions=captions, text_tokens=tokens)
  (bucket, batch), = take(1, cfg, opened)
  for row, number in enumerate(numbers(batch)):
    text = small_data.record(bucket, number)[name][:tokens]
    np.testing.assert_array_equal(batch["text"][row, :len(text)], text)
    assert (batch["text"][row, len(text):] == 0).all()
    assert batch["text_mask"][row].tolist() == [True] * len(text) + [False] * (tokens - len(text))


def test_training_never_sees_what_is_held_out(opened):
  train, held_out = pipeline.split_indices(opened, 0.3)
  for source, kept, out in zip(opened.sources, train, held_out):
    assert len(out) and sorted([*kept, *out]) == list(range(len(source)))
  cfg = small_data.config(validation=0.3, batch_size=2)
  seen = {(bucket, n) for bucket, batch in take(30, cfg, opened) for n in numbers(batch)}
  expected = {(part.bucket, int(n)) for part, kept in zip(opened.meta.parts, train) for n in kept}
  assert seen == expected


def test_holding_out_more_keeps_out_what_was_held_out(opened):
  few, many = pipeline.split_indices(opened, 0.2)[1], pipeline.split_indices(opened, 0.5)[1]
  assert all(set(a) <= set(b) and len(a) < len(b) for a, b in zip(few, many))
  assert all(len(kept) == 0 for kept in pipeline.split_indices(opened, 1.0)[0])


def test_validation_is_the_same_at_every_call_and_on_any_number_of_processes(opened):
  cfg = small_data.config(validation=0.5)
  first = pipeline.validation_batches(cfg, opened, count=5)
  assert_equal(pipeline.validation_batches(cfg, opened, count=5), first)
  halves = [pipeline.validation_batches(cfg, opened, count=5, process_index=i, process_count=2) for i in range(2)]
  assert_equal([(a[0], {n: np.concatenate([a[1][n], b[1][n]]) for n in a[1]}) for a, b in zip(*halves)], first)


def test_validation_takes_the_buckets_in_turn_with_the_long_caption(opened):
  cfg = small_data.config(validation=0.5, caption_drop=1.0)
  made = pipeline.validation_batches(cfg, opened, count=4)
  assert [bucket for bucket, _ in made] == [IMAGE, VIDEO, IMAGE, VIDEO]
  held_out = pipeline.split_indices(opened, 0.5)[1]
  for number, bucket in enumerate((IMAGE, VIDEO)):
    seen = [n for b, batch in made if b == bucket for n in numbers(batch)]
    out = held_out[number].tolist()
    assert set(seen) <= set(out) and len(set(seen)) == min(len(out), 8)  # repeats only where there are too few
  assert all((batch["text_mask"].sum(axis=1) == 5).all() for _, batch in made)


def test_validation_may_be_off_but_not_empty(opened):
  assert pipeline.validation_batches(small_data.config(validation=0.0), opened, count=3) == []
  with pytest.raises(ValueError, match="holds out none of 19 records"):
    pipeline.validation_batches(small_data.config(validation=1e-9), opened, count=3)


def test_a_bucket_with_too_few_clips_is_named_with_its_count(opened):
  with pytest.raises(ValueError, match="than a batch has rows: 1x24x32 has 6 of 8 "):
    take(1, small_data.config(batch_size=8), opened)


def test_a_batch_that_processes_cannot_share_is_refused(opened):
  with pytest.raises(ValueError, match="data.batch_size 4 is not divisible among 3 processes"):
    take(1, small_data.config(), opened, process_count=3)
