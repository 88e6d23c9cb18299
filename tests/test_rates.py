"""What the loader's rates are made of: random clips as the pipeline reads them, and what training asks of it."""

import dataclasses
import types

import numpy as np
import pytest

from motif_jax.budget import feeding, flops
from motif_jax.budget.devices import DEVICES
from motif_jax.budget.workload import Tokens
from motif_jax.data import dataset, pipeline, rates, record
from motif_jax.model.plan import make_plan
from tests import small_data, tiny


def test_random_clips_are_a_data_set_of_their_stated_size(tmp_path):
  spec = record.Spec((3, 6, 8), 5, 7, (2, 4), 0)
  rates.write_random(tmp_path / "set", small_data.VIDEO, spec, records=11, per_shard=4)
  opened = dataset.open_dataset(tmp_path / "set")
  source = opened.sources[0]
  assert source.shards == (4, 4, 3) and len(np.unique([source[i]["latents"][0, 0, 0, 0] for i in range(11)])) > 5
  arrays = sum(value.nbytes for value in source[2].values() if isinstance(value, np.ndarray))
  assert arrays == record.bytes_of(spec)
  cfg = small_data.config(order="shards", validation=0.0)
  assert rates.parts(cfg, opened).keys() == {"read", "unpack", "batch"} and min(rates.parts(cfg, opened).values()) >= 0
  assert {bucket for bucket, _ in [next(pipeline.batches(cfg, opened, seed=0))]} == {small_data.VIDEO}


def test_a_rate_is_the_rows_and_bytes_of_the_batches_over_their_time(tmp_path, monkeypatch):
  spec = small_data.SPECS[small_data.VIDEO]
  opened = dataset.open_dataset(small_data.write(tmp_path / "set", {small_data.VIDEO: 9}))
  now = iter([10.0, 12.0, 20.0, 25.0])  # a start, its first batch; the batches that count begin and end
  monkeypatch.setattr(rates, "time", types.SimpleNamespace(perf_counter=lambda: next(now), process_time=lambda: 0.0))
  rate = rates.measure(small_data.config(batch_size=3), opened, batches=4)
  assert rate == pytest.approx((4 * 3 / 5, 4 * 3 / 5 * record.bytes_of(spec), 0, 2))


def test_a_host_asks_for_as_many_clips_as_its_devices_compute():
  cfg, tokens = tiny.make_config(), Tokens(video=32, text=5)
  plan = make_plan(cfg.model.depths)
  need = feeding.demand(cfg, tokens, plan, DEVICES["h200"], clip_bytes=1000.0, utilisation=0.5)
  executed = sum(part.total for part in flops.executed(cfg, tokens, plan).values())
  assert need.clips * executed == pytest.approx(8 * 0.5 * DEVICES["h200"].flops) and need.bytes == 1000 * need.clips
  half = feeding.demand(cfg, tokens, plan, dataclasses.replace(DEVICES["h200"], node=4), clip_bytes=1000.0, utilisation=0.5)
  assert half.clips == need.clips / 2 and half.seconds == need.seconds
