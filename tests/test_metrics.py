"""Claims about metrics, the TensorBoard file and the progress line."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from motif_jax.config import BucketConfig
from motif_jax.train import metrics

T = jnp.array([0.0, 0.1, 0.2, 0.39, 0.95, 1.0])
LOSS = jnp.array([1.0, 3.0, 5.0, 7.0, 10.0, 20.0])


def _measured(**more):
  return jax.jit(metrics.measure)(loss=LOSS, t=T, gradient_norm=jnp.array(2.0), learning_rate=jnp.array(0.5), **more)


def test_losses_are_averaged_over_the_times_that_they_belong_to():
  values = metrics.values_of(metrics.merged(None, _measured()))
  assert values == {"loss": pytest.approx(46 / 6), "loss_t00_20": 2, "loss_t20_40": 6, "loss_t80_100": 15, "gradient_norm": 2,
                    "learning_rate": 0.5, "skipped": 0}  # bins without a sample and the alignment that is off do not appear


def test_alignment_appears_where_it_is_on_and_is_not_diluted_by_steps_without():
  total = metrics.merged(metrics.merged(None, _measured(alignment=jnp.full(6, 0.25))), _measured())
  assert metrics.values_of(total)["alignment"] == pytest.approx(0.25)


def test_merging_weighs_every_sample_the_same():
  total = metrics.merged(None, _measured())
  fewer = metrics.measure(loss=jnp.zeros(2), t=T[:2], gradient_norm=jnp.array(4.0), learning_rate=jnp.array(0.1))
  total = metrics.merged(total, fewer)
  values = metrics.values_of(total)
  assert values["loss"] == pytest.approx(46 / 8) and values["gradient_norm"] == pytest.approx(3)
  assert values["learning_rate"] == pytest.approx(0.1)  # the last one


def test_a_skipped_step_is_counted_and_spoils_no_mean():
  bad = metrics.measure(loss=LOSS * jnp.nan, t=T, gradient_norm=jnp.array(jnp.inf), learning_rate=jnp.array(0.5),
                        alignment=jnp.full(6, jnp.nan), updated=jnp.array(False))
  values = metrics.values_of(metrics.merged(metrics.merged(None, _measured(updated=jnp.array(True))), bad))
  assert values == metrics.values_of(metrics.merged(None, _measured())) | {"skipped": 1}


def test_a_nan_loss_is_shown_as_nan():
  values = metrics.values_of(metrics.merged(None, metrics.measure(loss=LOSS * jnp.nan, t=T, gradient_norm=jnp.array(2.0),
                                                                  learning_rate=jnp.array(0.5))))
  assert np.isnan(values["loss"])


def test_tensorboard_reads_what_was_written(tmp_path):
  video = np.random.default_rng(0).integers(0, 255, (5, 8, 12, 3), np.uint8)
  writer = metrics.Writer(tmp_path)
  writer.scalars(7, {"loss": 0.5, "gradient_norm": 2.0}, prefix="train")
  writer.clips(8, {"a red circle": video}, fps=10)
  writer.close()
  (file,) = tmp_path.glob("events*")
  events = [(e.step, v) for e in EventFileLoader(str(file)).Load() for v in e.summary.value]
  assert [(step, v.tag) for step, v in events] == [(7, "train/loss"), (7, "train/gradient_norm"), (8, "samples/a red circle")]
  assert events[0][1].tensor.float_val[0] == 0.5
  width, height, picture = events[2][1].tensor.string_val
  assert (width, height) == (b"12", b"8") and Image.open(io.BytesIO(picture)).n_frames == 5


def test_scalars_stand_in_json_lines_too(tmp_path):
  writer = metrics.Writer(tmp_path)
  for step in (7, 8):
    writer.scalars(step, {"loss": 0.5 * step, "update/single": 1.23456789e-3}, prefix="train")
  writer.scalars(9, {}, prefix="train")
  writer.close()
  lines = [json.loads(line) for line in (tmp_path / metrics.SCALARS).read_text().splitlines()]
  assert lines == [{"step": 7, "train/loss": 3.5, "train/update/single": 0.00123456789},
                   {"step": 8, "train/loss": 4.0, "train/update/single": 0.00123456789}]


def test_losses_are_read_back_to_the_bit_around_the_half_line_of_a_killed_run(tmp_path):
  loss = float(np.float32(1) / 3)
  metrics.Writer(tmp_path).scalars(1, {"loss": loss}, prefix="train")
  with (tmp_path / metrics.SCALARS).open("a") as file:
    file.write('{"step": 2, "train/lo')
  metrics.Writer(tmp_path, since=1).scalars(2, {"loss": 2 * loss}, prefix="train")
  read = [(step, np.float32(value)) for step, value in metrics.read(tmp_path, "train/loss")]
  assert read == [(1, np.float32(loss)), (2, np.float32(2 * loss))]


def test_losses_are_told_by_bucket_where_there_are_several():
  both = {bucket: metrics.merged(None, metrics.measure(loss=LOSS * (1 + i), t=T, gradient_norm=jnp.array(2.0),
                                                       learning_rate=jnp.array(0.5)))
          for i, bucket in enumerate((BucketConfig(5, 16, 24), BucketConfig(1, 16, 24)))}
  told = metrics.by_bucket(both)
  assert told["loss/1x16x24"] == pytest.approx(2 * told["loss/5x16x24"]) and "learning_rate/1x16x24" not in told
  assert metrics.by_bucket(dict(list(both.items())[:1])) == {}


def test_a_gif_holds_the_frames_at_their_speed():
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
  picture = Image.open(io.BytesIO(metrics.gif(np.broadcast_to(colours[:, None, None], (3, 4, 6, 3)), fps=20)))
  assert picture.info["duration"] == 50 and picture.size == (6, 4)
  for i, colour in enumerate(colours):
    picture.seek(i)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[0, 0], colour)


def test_speed_leaves_out_the_first_step_and_pauses():
  now = [0.0]
  progress = metrics.Progress(100, clock=lambda: now[0])
  now[0] = 60.0  # compilation
  progress.stepped(1, (10, 1e12, 2e12))
  assert progress.rates(1) == {}
  now[0] = 62.0
  progress.stepped(5, (10, 1e12, 2e12))
  progress.waited(0.5)
  with progress.paused():
    now[0] = 1062.0  # validation
  assert progress.rates(5) == {"steps_per_second": 2.0, "tokens_per_second": 5.0, "seconds_left": 47.5, "data_wait": 0.25,
                               "model_tflops": 0.5, "executed_tflops": 1.0}
  now[0] = 1063.0
  progress.stepped(6, (30, 3e12, 1e12))
  assert progress.rates(6) == {"steps_per_second": 1.0, "tokens_per_second": 30.0, "seconds_left": 94.0, "data_wait": 0.0,
                               "model_tflops": 3.0, "executed_tflops": 1.0}


def test_mfu_is_the_share_of_the_peak_that_model_flops_reach():
  now = [0.0]
  progress = metrics.Progress(100, peak=1e15, clock=lambda: now[0])
  progress.stepped(1, (10, 4e14, 9e14))
  now[0] = 2.0
  progress.stepped(2, (10, 4e14, 9e14))
  values = progress.rates(2)
  assert values["mfu"] == pytest.approx(0.2)
  assert "  20.0% MFU  " in progress.line(2, values)


def test_the_progress_line_says_what_is_known():
  progress = metrics.Progress(1000)
  values = {"loss": 0.123456, "gradient_norm": 2.0, "steps_per_second": 2.5, "tokens_per_second": 4096.0, "seconds_left": 3725.0}
  assert progress.line(5, values) == "step 5/1000  loss 0.1235  gradient 2  2.5 steps/s  4.1e+03 tokens/s  1h02m left"
  assert progress.line(5, {"loss": 1.0}) == "step 5/1000  loss 1"
  assert metrics.duration(307) == "5m07s"
