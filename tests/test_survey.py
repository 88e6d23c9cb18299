"""From a folder or a tar to clips in buckets: which moments they show, what they amount to, and that their frames are those."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from motif_jax.config import BucketConfig
from motif_jax.data import buckets, clip, inventory, moments, survey, videos
from tests import small_data
from tests.test_film import number_of, numbered, turn_header, write

LONG, SHORT, TALL, IMAGE = BucketConfig(9, 32, 48), BucketConfig(5, 32, 48), BucketConfig(9, 48, 32), BucketConfig(1, 32, 48)
BUCKETS = (LONG, SHORT, TALL, IMAGE)


def captions(folder, *rows):
  (folder / "captions.jsonl").write_text("\n".join(json.dumps(dict(short="a caption") | row) for row in rows))
  return folder


def shown(folder, found):
  """Key -> the numbers of the frames that are read."""
  return {one.key: [number_of(frame) for frame in clip.read(folder, one, bucket)]
          for bucket, clips in found.clips.items() for one in clips}


@pytest.mark.parametrize("name", moments.POLICIES)
def test_every_policy_stays_within_what_there_is(name):
  for there in range(1, 40):
    for frames in range(1, there + 1):
      for first, step in moments.POLICIES[name](there, frames):
        assert first >= 0 and step > 0 and first + (frames - 1) * step <= there - 1 + 1e-9


@pytest.mark.parametrize("policy, expected", [
    ("first", {"a.mp4": [*range(9)]}), ("centre", {"a.mp4": [*range(10, 19)]}),
    ("spread", {"a.mp4": [0, 3, 7, 10, 14, 17, 21, 24, 28]}),
    ("cut", {"a.mp4": [*range(9)], "a.mp4#1": [*range(9, 18)], "a.mp4#2": [*range(18, 27)]}),
])
def test_a_policy_decides_which_moments_are_read(tmp_path, policy, expected):
  write(tmp_path / "a.mp4", range(29))
  found = survey.survey(captions(tmp_path, dict(file="a.mp4")), BUCKETS, policy=policy)
  assert shown(tmp_path, found) == expected


@pytest.mark.parametrize("policy, first", [("first", 12), ("centre", 15)])
def test_a_caption_of_a_part_is_of_that_part_alone(tmp_path, policy, first):
  write(tmp_path / "a.mp4", range(48), rate=24)
  captions(tmp_path, dict(file="a.mp4", start=0.5, end=1.125), dict(file="a.mp4", start=0.5, end=0.75))
  found = survey.survey(tmp_path, BUCKETS, policy=policy)
  assert shown(tmp_path, found) == {"a.mp4@0.5-1.125": [*range(first, first + 9)],
                                    "a.mp4@0.5-0.75": [*range(12, 17)]}  # 6 frames fill the short bucket alone


def test_an_unknown_policy_is_refused(tmp_path):
  with pytest.raises(ValueError, match="'last', expected one of first, centre, spread, cut"):
    survey.survey(tmp_path, BUCKETS, policy="last")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
  """A folder of a video at 60 a second, an upright one that lies in its file, a small one, an image, a broken one, and a tar."""
  folder = tmp_path_factory.mktemp("mixed")
  write(folder / "fast.mp4", range(60), rate=60)
  turn_header(write(folder / "tall.mp4", range(12)), 0, 1)
  write(folder / "small.mp4", range(12), height=16, width=48)
  Image.fromarray(numbered(77)).save(folder / "i.png")
  (folder / "broken.mp4").write_bytes(b"no video")
  write(folder / "member.mp4", range(30, 40))
  with tarfile.open(folder / "0.tar", "w") as tar:
    tar.add(folder / "member.mp4", "x/1.mp4")
    info = tarfile.TarInfo("x/1.txt")
    info.size = 6
    tar.addfile(info, io.BytesIO(b"inside"))
  (folder / "member.mp4").unlink()
  return captions(folder, *(dict(file=name) for name in ("fast.mp4", "tall.mp4", "small.mp4", "i.png", "broken.mp4")))


@pytest.mark.parametrize("readers", [0, 2])
def test_clips_of_all_kinds_lie_in_the_buckets_that_they_fill(mixed, readers):
  found = survey.survey(mixed, BUCKETS, readers=readers)
  assert {buckets.name(b): [one.key for one in clips] for b, clips in found.clips.items()} == {
      "9x32x48": ["0.tar/x/1.mp4", "fast.mp4"], "9x48x32": ["tall.mp4"], "1x32x48": ["i.png"]}
  assert sorted((skip.name, skip.reason) for skip in found.skipped) == [("broken.mp4", "unreadable"), ("small.mp4", "too small")]
  assert found.probed == 6


def test_what_is_read_is_what_was_rendered(mixed):
  found = survey.survey(mixed, BUCKETS)
  read = {one.key: clip.read(mixed, one, bucket) for bucket, clips in found.clips.items() for one in clips}
  assert [number_of(np.rot90(frame)) for frame in read.pop("tall.mp4")] == [*range(9)]
  assert {key: [*map(number_of, frames)] for key, frames in read.items()} == {
      "0.tar/x/1.mp4": [*range(30, 39)], "fast.mp4": [0, 2, 5, 7, 10, 12, 15, 17, 20], "i.png": [77]}


def test_an_inventory_adds_up(mixed):
  found = survey.survey(mixed, (*BUCKETS, BucketConfig(17, 32, 48), BucketConfig(33, 32, 48)))
  spec = small_data.SPECS[small_data.VIDEO]
  made = inventory.inventory(found, (*BUCKETS, BucketConfig(33, 32, 48)), spec=lambda bucket: spec, patch=(1, 2, 4), seconds=2.0)
  rows = {row.bucket: row for row in made.rows}
  tokens = 3 * 3 * 2  # of a latent grid of 3 x 6 x 8
  assert rows["9x32x48"].clips == 1 and rows["9x32x48"].hours == pytest.approx(9 / 24 / 3600)
  assert rows["1x32x48"].hours == 0 and rows["1x32x48"].tokens == tokens
  assert made.empty == ("5x32x48", "33x32x48") and made.rate == 3.0
  assert made.total.clips == len(made.rows) and made.total.bytes == sum(row.bytes for row in made.rows)
  for said in ("no clip fills the buckets 5x32x48, 33x32x48", "1 skipped: unreadable", "6 videos probed, 3.0 a second", "all"):
    assert said in made.table()


def test_a_dry_run_tells_what_would_be_encoded_and_encodes_nothing(mixed, tmp_path):
  before = sorted(mixed.rglob("*"))
  done = subprocess.run(
      [sys.executable, "-m", "launch.encode", "--config=configs/smoke.py", f"--source={mixed}", "--dry_run", "--readers=2",
       "--decode=1", "--buckets=9x32x48,9x48x32,5x32x32,1x32x48", f"--inventory={tmp_path / 'found.json'}"],
      capture_output=True, text=True, env=os.environ | dict(JAX_PLATFORMS="cpu"))
  assert done.returncode == 0, done.stderr
  assert "no clip fills the buckets 5x32x32" in done.stdout and "1 skipped: too small" in done.stdout
  told = json.loads((tmp_path / "found.json").read_text())
  assert [(row["bucket"], row["clips"], row["tokens"]) for row in told["rows"]] == [
      ("9x32x48", 2, 2 * 3 * 4 * 6), ("9x48x32", 1, 3 * 6 * 4), ("1x32x48", 1, 4 * 6)]
  assert all(row["decoded"] > 0 and row["probed"] > 0 and row["bytes"] > 0 for row in told["rows"])
  assert told["total"]["clips"] == 4 and {skip["reason"] for skip in told["skipped"]} == {"unreadable", "too small"}
  assert sorted(mixed.rglob("*")) == before


def probed(monkeypatch, *keys, frames, buckets, **of_clip):
  """The survey of captions with these keys, of videos of so many frames of 32 x 48 at 10 a second."""
  one = clip.Clip(**dict(key="", file="a.mp4", span=None, long="a", short="a", tags=(), start=0.0, end=None, fps=24.0,
                         stamp=(0, 0)) | of_clip)
  monkeypatch.setattr(survey, "read_source", lambda *_, **__: ([dataclasses.replace(one, key=key) for key in keys], []))
  monkeypatch.setattr(videos, "probe", lambda *_, **__: types.SimpleNamespace(frames=frames, height=32, width=48, fps=10.0))
  return survey.survey("", buckets)


def test_clips_of_a_bucket_stand_by_their_keys(monkeypatch):
  assert [one.key for one in probed(monkeypatch, "b", "c", "a", frames=9, buckets=BUCKETS).clips[LONG]] == ["a", "b", "c"]


def test_a_span_of_whole_frames_has_no_more_by_rounding(monkeypatch):
  """(0.4 - 0.1) x 10 is 3.0000000000000004."""
  found = probed(monkeypatch, "a", frames=20, buckets=(BucketConfig(4, 32, 48),), start=0.1, end=0.4)
  assert not found.clips and found.skipped[0].reason == "too short"


@pytest.mark.parametrize("buckets, why", [
    ((BucketConfig(33, 32, 48), BucketConfig(9, 64, 96)), "too small"), ((BucketConfig(33, 32, 48),), "too short")])
def test_a_clip_is_too_short_only_where_every_bucket_is_longer(monkeypatch, buckets, why):
  assert [skip.reason for skip in probed(monkeypatch, "a", frames=9, buckets=buckets).skipped] == [why]
