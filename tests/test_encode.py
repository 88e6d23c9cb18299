"""Bulk encoding: a folder of real files becomes a whole data set, or says what is wrong; an interruption changes nothing."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import base
from motif_jax import config as config_lib
from motif_jax.config import BucketConfig
from motif_jax.data import buckets, captions, dataset, encode, extract, pipeline, progress, shards, survey, videos
from tests import small_data

VIDEO, IMAGE = small_data.VIDEO, small_data.IMAGE
BUCKETS = (VIDEO, IMAGE)
ENCODERS = extract.Encoders(small_data.Codec(), small_data.Text(), small_data.Teacher())


def clip(number, frames=7, height=24, width=32):
  rng = np.random.default_rng(number)
  small = rng.integers(0, 255, (frames, height // 4, width // 4, 3), dtype=np.uint8)
  return small.repeat(4, axis=1).repeat(4, axis=2)


def line(file, **changes):
  fields = dict(file=file, long=f"A long caption of {file}! And more of it.", short=f"about {file}") | changes
  return json.dumps({name: value for name, value in fields.items() if value is not None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Eight videos, one of them in a folder of its own and described twice at different times, and three images."""
  path = tmp_path_factory.mktemp("source") / "source"
  (path / "more").mkdir(parents=True)
  lines = []
  for number in range(7):
    videos.write_mp4(path / f"v{number}.mp4", clip(number), fps=24)
    lines.append(line(f"v{number}.mp4"))
  videos.write_mp4(path / "more" / "w.mp4", clip(7, frames=20), fps=24)
  lines += [line("more/w.mp4"), line("more/w.mp4", start=0.5, long="The later part. It differs.", tags=["later", "part"])]
  for number in range(3):
    Image.fromarray(clip(20 + number)[0]).save(path / f"i{number}.png")
    lines.append(line(f"i{number}.png"))
  (path / "captions.jsonl").write_text("\n".join(lines[::-1]) + "\n\n")
  return path


def run(source, output, **options):
  options = dict(clips_per_shard=4, say=lambda _: None) | options
  rows = options.pop("rows", 2)
  devices = extract.Devices(jit=options.pop("jit", lambda f: f), place=options.pop("place", lambda x: x), rows=lambda _: rows)
  found, encoders = survey.survey(source, options.pop("buckets", BUCKETS)), options.pop("encoders", ENCODERS)
  stage = shards.Stage(source, output, encoders, devices, decoders=options.pop("decoders", 0), limit=60)
  with contextlib.closing(stage):
    return encode.encode(source, found, output, encoders, functools.partial(write, stage, output), **options)


def write(stage, output, missing, made):
  for shard, after in zip(missing, [*missing[1:], None]):
    if shards.Note.of(shard, output) is None:
      stage.write(shard, after=after, made=made)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
  output = tmp_path_factory.mktemp("output") / "set"
  run(folder, output)
  return output


def contents(path):
  return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def records(path):
  return {source[i]["key"]: source[i] for source in dataset.open_dataset(path).sources for i in range(len(source))}


def test_every_clip_becomes_a_record_of_what_the_encoders_see(folder, undisturbed):
  found = records(undisturbed)
  assert set(found) == {*(f"v{n}.mp4" for n in range(7)), "more/w.mp4", "more/w.mp4@0.5", *(f"i{n}.png" for n in range(3))}
  for key, record in found.items():
    bucket = IMAGE if key.endswith("png") else VIDEO
    frames = videos.read_clip(folder / record["source"], bucket, start=record["start"])[None]
    video = frames.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(record["latents"], ENCODERS.codec.encode(video)[0], atol=2e-3)
    times = ENCODERS.codec.latent_times(bucket.frames)
    np.testing.assert_allclose(record["teacher"], ENCODERS.teacher.encode(video, times)[0], atol=2e-3)
    for name, caption in (("text_long", record["caption_long"]), ("text_short", record["caption_short"]),
                          ("text_truncated", record["caption_long"].split("And")[0].split("It")[0])):
      np.testing.assert_array_equal(record[name], ENCODERS.text.encode([caption])[0].astype(np.float16), err_msg=name)
  assert found["more/w.mp4@0.5"]["tags"] == "later, part" and found["v0.mp4"]["tags"] == ""
  assert found["more/w.mp4@0.5"]["start"] == 0.5 and found["more/w.mp4@0.5"]["caption_long"] == "The later part. It differs."
  assert (found["more/w.mp4@0.5"]["latents"] != found["more/w.mp4"]["latents"]).any()


def test_records_lie_in_the_order_of_their_keys(undisturbed):
  opened = dataset.open_dataset(undisturbed)
  for source in opened.sources:
    keys = [source[i]["key"] for i in range(len(source))]
    assert keys == sorted(keys)
  assert [part.records for part in opened.meta.parts] == [3, 9]
  assert len(list((undisturbed / buckets.name(VIDEO)).glob("*.array_record-*-of-00003"))) == 3


def test_the_metadata_says_what_made_the_data_set(undisturbed):
  meta = dataset.open_dataset(undisturbed).meta
  assert meta.codec == dict(name="means", version="1", channels=5, strides=[2, 4, 4])
  assert meta.text == dict(name="lengths", version="1", dim=7) and meta.teacher == dict(name="cells", version="1", dim=9)
  np.testing.assert_array_equal(meta.text_empty, np.ones((1, 7), np.float16), strict=True)


def test_the_first_blur_level_is_the_first_latent_frame(undisturbed):
  for record in records(undisturbed).values():
    np.testing.assert_allclose(record["first_frame"][0], record["latents"][0], atol=2e-3)
    spread = record["first_frame"][..., :3].astype(np.float32).std(axis=(1, 2, 3))
    assert (np.diff(spread) < 0).all(), "each level is blurrier than the one before"


def test_blur_keeps_flat_frames_and_spreads_a_dot_evenly():
  flat = np.full((2, 12, 16, 3), 0.25, np.float32)
  np.testing.assert_allclose(extract.blurred(flat), 0.25, atol=1e-6)
  dot = np.zeros((1, 65, 129, 3), np.float32)
  dot[0, 32, 64] = 1
  levels = extract.blurred(dot)[0, ..., 0]
  assert levels.shape == (4, 65, 129) and levels[0, 32, 64] == 1
  for level, share in zip(levels[1:], extract.BLUR[1:]):
    for axis, size, middle in ((1, 65, 32), (0, 129, 64)):
      profile = level.sum(axis=axis)
      deviation = np.sqrt((profile * (np.arange(size) - middle) ** 2).sum() / profile.sum())
      assert deviation == pytest.approx(share * 65, rel=0.03, abs=0.05)


def test_the_batch_size_changes_no_record(folder, undisturbed, tmp_path):
  run(folder, tmp_path / "set", rows=3)
  assert contents(tmp_path / "set") == contents(undisturbed)


def test_the_pipeline_reads_what_was_encoded(undisturbed):
  opened = dataset.open_dataset(undisturbed)
  batches = pipeline.batches(small_data.config(batch_size=3), opened, seed=0)
  assert {next(batches)[0] for _ in range(8)} == {VIDEO, IMAGE}
  batches.close()


class Stop:
  """A compiler whose programs interrupt the run at their `calls`th call."""

  def __init__(self, calls):
    self.left = calls

  def __call__(self, function):
    def program(*args):
      self.left -= 1
      if self.left < 0:
        raise KeyboardInterrupt
      return function(*args)
    return program


# Three calls a batch of two: the shards of 3 images and of 4, 4 and 1 videos take 6, 6, 6 and 3 calls.
@pytest.mark.parametrize("calls", [0, 6, 9, 14, 20])
def test_an_interrupted_run_goes_on_to_the_same_data_set(folder, undisturbed, tmp_path, calls):
  output = tmp_path / "set"
  with pytest.raises(KeyboardInterrupt):
    run(folder, output, jit=Stop(calls))
  with pytest.raises(ValueError, match="interrupted.*launch.encode"):
    dataset.open_dataset(output)
  kept = {f: f.stat().st_mtime_ns for f in output.rglob("*.array_record-*")}
  assert len(kept) == {0: 0, 6: 1, 9: 1, 14: 2, 20: 3}[calls]
  run(folder, output)
  assert {f: f.stat().st_mtime_ns for f in kept} == kept, "finished shards are not encoded again"
  assert contents(output) == contents(undisturbed)


@pytest.mark.parametrize("step", ["write_part", "write_meta"])
def test_an_interruption_at_the_very_end_is_gone_on_with(folder, undisturbed, tmp_path, monkeypatch, step):
  def stop(*_):
    raise KeyboardInterrupt
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(dataset, step, stop)
    run(folder, tmp_path / "set")
  with pytest.raises(ValueError, match="interrupted"):
    dataset.open_dataset(tmp_path / "set")
  run(folder, tmp_path / "set", jit=Stop(0))
  assert contents(tmp_path / "set") == contents(undisturbed)


def test_what_a_killed_run_leaves_half_written_is_removed(folder, undisturbed, tmp_path):
  output = tmp_path / "set"
  with pytest.raises(KeyboardInterrupt):
    run(folder, output, jit=Stop(9))
  shard = next(output.rglob("*.array_record-*"))
  (shard.parent / f".{shard.name}.1.partial").write_bytes(b"half")
  shard.with_name(shard.name.replace("of-", "of-1")).write_bytes(b"of a plan with more shards")
  (shard.parent / "unfinished.txt").write_text("not ours")
  run(folder, output)
  (shard.parent / "unfinished.txt").unlink()
  assert contents(output) == contents(undisturbed)


def test_a_finished_shard_that_was_lost_is_encoded_again(folder, undisturbed, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run(folder, tmp_path / "set", jit=Stop(9))
  next((tmp_path / "set").rglob("*.array_record-*")).unlink()
  run(folder, tmp_path / "set")
  assert contents(tmp_path / "set") == contents(undisturbed)


def test_a_file_replaced_during_an_interruption_is_encoded_anew(folder, tmp_path):
  source = shutil.copytree(folder, tmp_path / "source")
  with pytest.raises(KeyboardInterrupt):
    run(source, tmp_path / "set", jit=Stop(14))
  videos.write_mp4(source / "v0.mp4", clip(99), fps=24)
  run(source, tmp_path / "set")
  run(source, tmp_path / "fresh")
  assert contents(tmp_path / "set") == contents(tmp_path / "fresh")


def test_a_whole_data_set_is_left_alone(folder, undisturbed):
  before, said = {f: f.stat().st_mtime_ns for f in undisturbed.rglob("*")}, []
  report = run(folder, undisturbed, jit=Stop(0), say=said.append)
  assert {f: f.stat().st_mtime_ns for f in undisturbed.rglob("*")} == before
  assert len(said) == 1 and "whole and matches" in said[0]
  assert report.records == {"1x24x32": 3, "5x24x32": 9}


def test_a_whole_data_set_of_something_else_is_refused(folder, undisturbed):
  before = contents(undisturbed)
  with pytest.raises(ValueError, match="whole data set already.*delete this one"):
    run(folder, undisturbed, encoders=ENCODERS._replace(codec=small_data.Codec(version="2")))
  with pytest.raises(ValueError, match="whole data set already"):
    run(folder, undisturbed, buckets=(VIDEO,))
  assert contents(undisturbed) == before


@pytest.fixture(scope="module")
def mixed(folder, tmp_path_factory):
  """A folder with one of everything that can be wrong, and three good videos."""
  path = tmp_path_factory.mktemp("mixed")
  good = (folder / "v0.mp4").read_bytes()
  spoiled = {"empty": b"", "text": b"not a video at all\n" * 99, "half": good[:(good.index(b"mdat") + len(good)) // 2],
             "late": good[:-len(good) // 10]}  # its first frame can be read, its last cannot
  for name in ("v0", "v1", "v2"):
    shutil.copy(folder / f"{name}.mp4", path / f"{name}.mp4")
  for name, content in spoiled.items():
    (path / f"{name}.mp4").write_bytes(content)
  shutil.copy(path / "v0.mp4", path / "silent.mp4")
  videos.write_mp4(path / "short.mp4", clip(0, frames=4), fps=24)
  videos.write_mp4(path / "small.mp4", clip(0, height=20), fps=24)
  (path / "notes.txt").write_text("no video, and none is expected")
  files = ["v0", "v1", "v2", *spoiled, "short", "small", "gone"]
  lines = [line(f"{name}.mp4") for name in files]
  lines += ["{not json", "[1]", line("v0.mp4", long=None, short=None), line("v0.mp4", short=3), line("v0.mp4"), line("../v0.mp4"),
            line("v0.mp4", start=-1)]
  (path / "captions.jsonl").write_text("\n".join(lines))
  return path


EXPECTED_SKIPS = {
    ("empty.mp4", "unreadable"), ("text.mp4", "unreadable"), ("half.mp4", "unreadable"),
    ("late.mp4", "unreadable"), ("short.mp4", "too short"),
    ("small.mp4", "too small"), ("gone.mp4", "caption without file"), ("silent.mp4", "file without caption"),
    ("v0.mp4", "duplicate caption"), *((f"captions.jsonl:{n}", "bad line") for n in (11, 12, 13, 14, 16, 17)),
}


def test_whatever_is_wrong_is_skipped_and_reported_with_its_reason(mixed, tmp_path):
  report = run(mixed, tmp_path / "set", buckets=(VIDEO,))
  assert {(skip.name, skip.reason) for skip in report.skipped} == EXPECTED_SKIPS
  assert report.records == {"5x24x32": 3} and sorted(records(tmp_path / "set")) == ["v0.mp4", "v1.mp4", "v2.mp4"]
  stored = json.loads((tmp_path / "set" / "report.json").read_text())
  assert {(skip["name"], skip["reason"]) for skip in stored["skipped"]} == EXPECTED_SKIPS
  table = report.table()
  for said in ("3 clips encoded in bucket 5x24x32", "4 skipped: unreadable", "6 skipped: bad line", "empty (0 bytes)",
               "short.mp4 has 4 frames of 24 x 32"):
    assert said in table


@pytest.mark.parametrize("frames, height, reason", [(4, 24, None), (4, 20, "too small"), (7, 20, "too small")])
def test_a_clip_is_too_short_only_where_every_bucket_is_longer(tmp_path, frames, height, reason):
  videos.write_mp4(tmp_path / "a.mp4", clip(0, frames=frames, height=height), fps=24)
  (tmp_path / "captions.jsonl").write_text(line("a.mp4"))
  found = survey.survey(tmp_path, BUCKETS)
  assert [skip.reason for skip in found.skipped] == ([reason] if reason else []) and list(found.clips) == ([] if reason else [IMAGE])


def test_skips_found_while_decoding_survive_an_interruption(mixed, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run(mixed, tmp_path / "set", buckets=(VIDEO,), clips_per_shard=1, jit=Stop(5))
  report = run(mixed, tmp_path / "set", buckets=(VIDEO,), clips_per_shard=1)
  assert {(skip.name, skip.reason) for skip in report.skipped} == EXPECTED_SKIPS
  assert sorted(records(tmp_path / "set")) == ["v0.mp4", "v1.mp4", "v2.mp4"], "a shard may be left empty"


def test_a_bucket_of_which_nothing_can_be_decoded_is_left_out(mixed, tmp_path):
  source = tmp_path / "source"
  source.mkdir()
  Image.fromarray(clip(0)[0]).save(source / "i.png")
  shutil.copy(mixed / "late.mp4", source)
  (source / "captions.jsonl").write_text(line("i.png") + "\n" + line("late.mp4"))
  assert run(source, tmp_path / "set").records == {"1x24x32": 1}
  assert [part.bucket for part in dataset.open_dataset(tmp_path / "set").meta.parts] == [IMAGE]
  assert sorted(os.listdir(tmp_path / "set")) == ["1x24x32", "dataset.json", "report.json"]


@pytest.mark.parametrize("files, said", [
    (None, "does not exist"), ((), "is empty"), (("v0.mp4",), "has no captions.jsonl"),
    (("captions.jsonl",), "no clip.*can be used.*11 skipped: caption without file"),
    (("captions.jsonl", "text.mp4"), "no clip.*can be used.*1 skipped: unreadable"),
    (("captions.jsonl", "late.mp4"), "no clip.*can be used.*1 skipped: unreadable"),
])
def test_where_nothing_can_be_used_one_error_says_so_and_nothing_is_left(mixed, tmp_path, files, said):
  source = tmp_path / "source"
  if files is not None:
    source.mkdir()
    for file in files:
      shutil.copy(mixed / file, source)
  with pytest.raises(ValueError, match=f"(?s){said}"):
    run(source, tmp_path / "set", buckets=(VIDEO,))
  assert not (tmp_path / "set").exists()


def test_a_bucket_that_the_codec_cannot_code_is_refused_before_any_work(folder, tmp_path):
  with pytest.raises(ValueError, match="does not fit the strides"):
    run(folder, tmp_path / "set", buckets=(BucketConfig(4, 24, 32),))
  assert not (tmp_path / "set").exists()


def test_an_encoder_that_gives_no_finite_numbers_stops_the_run(folder, tmp_path):
  class Broken(small_data.Codec):
    def encode(self, video):
      return super().encode(video) * 1e6
  with pytest.raises(ValueError, match="latents holds values that are not finite in float16"):
    run(folder, tmp_path / "set", encoders=ENCODERS._replace(codec=Broken()))
  with pytest.raises(ValueError, match="interrupted"):
    dataset.open_dataset(tmp_path / "set")


def test_progress_counts_every_clip_once(mixed, tmp_path, monkeypatch):
  monkeypatch.setattr(progress, "SAY_EVERY", 0.0)
  said = []
  run(mixed, tmp_path / "set", buckets=(VIDEO,), clips_per_shard=3, say=said.append)
  done = [int(text.split()[0]) for text in said]
  assert done == sorted(done) and done[-1] == 4 and said[-1].startswith("4 of 4 clips (100%")


@pytest.mark.parametrize("caption, expected", [
    ("One. Two.", "One."), ("Is it? Yes.", "Is it?"), ("No end", "No end"), ("It costs 3.5 dollars. Cheap.", "It costs 3.5 dollars."),
])
def test_the_truncated_caption_is_the_first_sentence(caption, expected):
  assert captions.first_sentence(caption) == expected


def launch(*flags, program="encode"):
  command = [sys.executable, "-m", f"launch.{program}", "--config=configs/base.py", *flags]
  return subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(JAX_PLATFORMS="cpu"))


@pytest.fixture(scope="module")
def commanded(folder, tmp_path_factory):
  """(the process of the command, its data set)."""
  output = tmp_path_factory.mktemp("commanded") / "set"
  return launch(f"--source={folder}", f"--output={output}", "--buckets=5x24x32,1x24x32", "--batch_size=4"), output


def test_the_command_encodes_with_the_real_encoders(commanded):
  done, output = commanded
  assert done.returncode == 0, done.stderr
  assert "9 clips encoded in bucket 5x24x32" in done.stdout and "12 of 12 clips" in done.stdout
  assert all(phase in done.stdout for phase in ("probe", "decode", "codec", "teacher", "text", "write"))
  opened = dataset.open_dataset(output)
  c = base.get_config()
  c.model.update(latent_channels=opened.meta.codec["channels"], text_dim=opened.meta.text["dim"])
  dataset.check_encoders(opened.meta, config_lib.from_config_dict(c))
  for source in opened.sources:
    record = source[0]
    np.testing.assert_allclose(record["first_frame"][0], record["latents"][0], atol=4e-3)


def test_what_was_encoded_is_verified_and_shown_beside_its_source(folder, commanded, tmp_path):
  done = launch(f"--data={commanded[1]}", f"--source={folder}", f"--pictures={tmp_path}", "--readers=1", program="verify")
  assert done.returncode == 0 and "12 records" in done.stdout and "0 faults" in done.stdout, done.stdout + done.stderr
  quality = [float(decibels) for decibels in re.findall(r"^(\S+) dB  \S+:", done.stdout, re.M)]
  assert len(quality) == 7 and min(quality) > 14, "of noise the codec keeps 17 dB; two different clips are 8 dB apart"
  assert Image.open(tmp_path / "verify-5x24x32.png").size[1] == 2 + 4 * (2 * 26 + videos.TITLE)
  assert (tmp_path / "verify-1x24x32.png").exists()


def test_the_command_fails_with_one_clear_line(tmp_path):
  done = launch(f"--source={tmp_path}", f"--output={tmp_path / 'set'}", "--buckets=5x24x32")
  assert done.returncode == 1 and done.stderr.strip().startswith("error: ") and "is empty" in done.stderr
  assert "Traceback" not in done.stderr and not (tmp_path / "set").exists()
