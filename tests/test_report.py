"""Claims about what a run tells while it trains: each line of the steps since the last one, and of none that is undone."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from motif_jax.budget.throughput import Work
from motif_jax.config import BucketConfig
from motif_jax.train import metrics
from motif_jax.train.guard import Guard
from motif_jax.train.report import Report
from tests import tiny

CFG = tiny.make_config()
CFG = dataclasses.replace(CFG, train=dataclasses.replace(CFG.train, log_every=3, steps=6))
IMAGE, VIDEO = BucketConfig(1, 16, 24), BucketConfig(5, 16, 24)


@pytest.fixture
def told():
  """(a report with one record lost, what it wrote: [(step, prefix, values)])."""
  written = []
  writer = types.SimpleNamespace(scalars=lambda step, values, *, prefix: written.append((step, prefix, values)))
  return Report(CFG, writer, Guard(CFG.train), lost={"a": "gone"}, peak=None, saved={}), written


def add(report, step, bucket, loss, *, closely=()):
  one = jnp.array(1.0)
  measured = metrics.measure(loss=jnp.full(3, loss), t=jnp.full(3, 0.5), gradient_norm=one, learning_rate=one)
  report.add(step, bucket, (measured, dict(closely)), Work(1, 1.0, 1.0))


def test_a_line_is_of_the_steps_since_the_last_one_in_all_and_by_bucket(told):
  report, written = told
  for step, (bucket, loss) in enumerate(
      [(IMAGE, 1.0), (VIDEO, 4.0), (IMAGE, 7.0), (VIDEO, 9.0), (IMAGE, 2.0), (VIDEO, 1.0)], 1):
    add(report, step, bucket, loss)
  report.flush()
  assert [(step, values["loss"], values["lost_records"]) for step, _, values in written[::2]] == [(3, 4.0, 1), (6, 4.0, 1)]
  assert [(values["loss/1x16x24"], values["loss/5x16x24"]) for _, _, values in written[1::2]] == [(4.0, 4.0), (2.0, 5.0)]


def test_of_steps_that_are_undone_nothing_is_told(told):
  report, written = told
  add(report, 1, VIDEO, 100.0)
  add(report, 2, IMAGE, 100.0)
  report.forget()
  report.flush()
  for step, loss in enumerate((1.0, 3.0, 5.0), 1):
    add(report, step, IMAGE, loss)
  report.flush()
  (_, _, values), (_, _, by_bucket) = written
  assert values["loss"] == 3.0 and by_bucket == {}  # all of one bucket


def test_telemetry_stands_at_the_step_that_was_measured_closely(told):
  report, written = told
  add(report, 1, IMAGE, 1.0, closely={"gate/dual": jnp.ones(2)})
  assert not written  # which is fetched when the next one is under way
  add(report, 2, IMAGE, 1.0)
  assert written == [(1, "telemetry", {"gate/dual/00": 1.0, "gate/dual/01": 1.0})]


def test_waiting_counts_only_where_no_step_is_under_way(told, monkeypatch):
  report, waited = told[0], []
  monkeypatch.setattr(report._progress, "waited", waited.append)
  with report.waiting():  # before the first step
    pass
  add(report, 1, IMAGE, 1.0)
  for ready in (False, True):
    report._pending = (*report._pending[:2], [types.SimpleNamespace(is_ready=lambda: ready)], report._pending[3])
    with report.waiting():
      pass
    assert len(waited) == ready


def test_a_rollback_says_what_it_left_out_last_and_how_many_there_may_be():
  guard = Guard(CFG.train, left_out=["from step 2 to 5", "from step 8 to 9"])
  assert guard.said() == f"rolled back (2 of {CFG.train.rollbacks}): left out are the batches from step 8 to 9"
