"""Real files, written and read: sizes, rates, orientation, colours, and everything that can be wrong with a file."""

import os
import wave

import av
import numpy as np
import pytest
from PIL import Image

from motif_jax.config import BucketConfig
from motif_jax.data import shapes, videos

RED, GREEN, BLUE = (220, 40, 40), (40, 180, 60), (40, 60, 220)


def moving(frames=9, height=32, width=48):
  """A bright square that moves over a dark ground, uint8 (F, H, W, 3)."""
  clip = np.full((frames, height, width, 3), (30, 30, 60), np.uint8)
  for i, frame in enumerate(clip):
    frame[8:20, 2 + 2 * i:14 + 2 * i] = 200
  return clip


def still(*colours, height=32, width=48):
  """Columns of `colours` from left to right, one frame."""
  clip = np.zeros((1, height, width, 3), np.uint8)
  for column, colour in zip(np.array_split(np.arange(width), len(colours)), colours):
    clip[:, :, column] = colour
  return clip


def test_a_written_video_is_read_back(tmp_path):
  clip = moving()
  videos.write_mp4(tmp_path / "a.mp4", clip, fps=24)
  got = videos.read_clip(tmp_path / "a.mp4", BucketConfig(9, 32, 48))
  assert got.shape == clip.shape and got.dtype == np.uint8
  assert np.abs(got.astype(float) - clip).mean() < 2
  assert videos.probe(tmp_path / "a.mp4") == videos.Probe(frames=9, height=32, width=48, fps=24.0)


def test_the_same_frames_are_the_same_file(tmp_path):
  known, files = shapes.combinations(held_out=False), []
  clips = [shapes.render(known[i], np.random.default_rng(i)) for i in range(60)]
  for _ in range(3):  # x264 with its macroblock tree wrote each eighth of such small clips in more than one way
    for i, clip in enumerate(clips):
      videos.write_mp4(tmp_path / f"{i}.mp4", clip, fps=8)
    files.append([(tmp_path / f"{i}.mp4").read_bytes() for i in range(60)])
  assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, (240, 240, 240), (16, 16, 16)])
def test_flat_colours_survive_the_file(tmp_path, colour):
  videos.write_mp4(tmp_path / "a.mp4", still(colour).repeat(5, axis=0), fps=24)
  got = videos.read_clip(tmp_path / "a.mp4", BucketConfig(5, 32, 48))
  np.testing.assert_allclose(got.mean((0, 1, 2)), colour, atol=4)


def test_a_clip_is_cut_at_the_centre(tmp_path):
  videos.write_mp4(tmp_path / "a.mp4", still(RED, GREEN, BLUE, width=96), fps=24)
  got = videos.read_clip(tmp_path / "a.mp4", BucketConfig(1, 32, 32))[0]
  np.testing.assert_allclose(got[:, 4:-4].mean((0, 1)), GREEN, atol=6)


def test_a_large_clip_is_shrunk_before_it_is_cut(tmp_path):
  videos.write_mp4(tmp_path / "a.mp4", still(RED, GREEN, BLUE, height=64, width=96), fps=24)
  got = videos.read_clip(tmp_path / "a.mp4", BucketConfig(1, 16, 24))[0]
  for column, colour in ((slice(0, 7), RED), (slice(9, 15), GREEN), (slice(17, 24), BLUE)):
    np.testing.assert_allclose(got[:, column].mean((0, 1)), colour, atol=6)


@pytest.mark.parametrize("native, rate, step", [(48, 24.0, 2), (24, 24.0, 1), (12, 12.0, 1), (60, 24.0, 2.5)])
def test_fast_videos_are_thinned_and_slow_ones_kept(tmp_path, native, rate, step):
  levels = np.arange(20) * 12
  clip = np.broadcast_to(levels[:, None, None, None], (20, 16, 16, 3)).astype(np.uint8)
  videos.write_mp4(tmp_path / "a.mp4", clip, fps=native)
  probe = videos.probe(tmp_path / "a.mp4")
  assert probe.fps == rate and probe.frames == int(np.ceil(20 / step))
  got = videos.read_clip(tmp_path / "a.mp4", BucketConfig(probe.frames, 16, 16)).mean((1, 2, 3))
  # The frame on screen at each instant, to the nearest: at most half a step from the exact place.
  assert np.abs(got - np.arange(probe.frames) * step * 12).max() <= 12 * 0.5 + 3


def test_a_clip_starts_where_it_is_asked_to(tmp_path):
  clip = np.broadcast_to((np.arange(20) * 12)[:, None, None, None], (20, 16, 16, 3)).astype(np.uint8)
  videos.write_mp4(tmp_path / "a.mp4", clip, fps=10)
  got = videos.read_clip(tmp_path / "a.mp4", BucketConfig(3, 16, 16), start=1.5).mean((1, 2, 3))
  np.testing.assert_allclose(got, [180, 192, 204], atol=3)
  assert videos.probe(tmp_path / "a.mp4", start=1.5).frames == 5


def test_no_frame_is_lost_to_rounded_time_stamps(tmp_path):
  with av.open(str(tmp_path / "a.mkv"), "w") as container:  # Matroska counts in whole milliseconds
    stream = container.add_stream("libx264", rate=24)
    stream.width = stream.height = 16
    for level in range(0, 200, 10):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), format="rgb24")))
    container.mux(stream.encode())
  assert videos.probe(tmp_path / "a.mkv").frames == 20
  got = videos.read_clip(tmp_path / "a.mkv", BucketConfig(20, 16, 16)).mean((1, 2, 3))
  np.testing.assert_allclose(got, np.arange(0, 200, 10), atol=4)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_image_is_a_video_of_one_frame(tmp_path, name):
  image = moving(frames=1)[0]
  Image.fromarray(image).save(tmp_path / name, quality=95)
  assert videos.probe(tmp_path / name).frames == 1
  got = videos.read_clip(tmp_path / name, BucketConfig(1, 32, 48))[0]
  assert np.abs(got.astype(float) - image).mean() < 3


def test_rotated_pictures_come_out_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # stored on its side: turn by 90 degrees clockwise to see it
  Image.fromarray(still(RED, BLUE)[0]).save(tmp_path / "a.jpg", exif=exif, quality=95)
  probe = videos.probe(tmp_path / "a.jpg")
  assert (probe.height, probe.width) == (48, 32)
  got = videos.read_clip(tmp_path / "a.jpg", BucketConfig(1, 48, 32))[0]
  np.testing.assert_allclose(got[2, 16], RED, atol=6)
  np.testing.assert_allclose(got[-2, 16], BLUE, atol=6)


def spoil(path, kind):
  """Makes `path` a file that cannot be read, in the way of `kind`."""
  videos.write_mp4(path, moving(), fps=24)
  whole = path.read_bytes()
  if kind == "missing":
    path.unlink()
  elif kind == "only sound":
    with wave.open(str(path), "wb") as file:
      file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
      file.writeframes(bytes(1600))
  else:
    path.write_bytes({"empty": b"", "text": b"a caption, not a video\n" * 50, "no frames": whole[:whole.index(b"mdat")],
                      "half": whole[:(whole.index(b"mdat") + len(whole)) // 2], "late": whole[:-len(whole) // 10],
                      "between frames": whole[:whole.index(b"mdat") + 4]}[kind])


SPOILED = {"empty": "0 bytes", "text": "not a video", "no frames": "", "half": "breaks off", "missing": "does not exist",
           "only sound": "not a video.*something else", "between frames": "breaks off after 0 of 9 frames", "late": "breaks off"}


@pytest.mark.parametrize("kind, said", SPOILED.items())
def test_unreadable_files_say_so_and_name_themselves(tmp_path, kind, said):
  spoil(tmp_path / "bad.mp4", kind)
  with pytest.raises(videos.UnreadableVideo, match=f"bad.mp4.*{said}") as error:
    videos.read_clip(tmp_path / "bad.mp4", BucketConfig(9, 32, 32))
  assert error.value.kind == "unreadable"


@pytest.mark.parametrize("kind", sorted(set(SPOILED) - {"late"}))
def test_a_probe_refuses_what_has_no_first_frame(tmp_path, kind):
  spoil(tmp_path / "bad.mp4", kind)
  with pytest.raises(videos.UnreadableVideo, match="bad.mp4") as error:
    videos.probe(tmp_path / "bad.mp4")
  assert error.value.kind == "unreadable"


def test_short_clips_are_refused(tmp_path):
  videos.write_mp4(tmp_path / "a.mp4", moving(frames=8), fps=24)
  with pytest.raises(videos.UnreadableVideo, match="8 frames.*at least 9") as error:
    videos.read_clip(tmp_path / "a.mp4", BucketConfig(9, 32, 32))
  assert error.value.kind == "too short"


def test_small_clips_are_never_upscaled(tmp_path):
  videos.write_mp4(tmp_path / "a.mp4", moving(), fps=24)
  with pytest.raises(videos.UnreadableVideo, match="32 x 48.*at least 34 x 32") as error:
    videos.read_clip(tmp_path / "a.mp4", BucketConfig(9, 34, 32))
  assert error.value.kind == "too small"


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  videos.write_mp4(tmp_path / "a.mp4", moving(), fps=24)
  before = (tmp_path / "a.mp4").read_bytes()

  def stop(*_):
    raise KeyboardInterrupt
  monkeypatch.setattr(os, "fsync", stop)
  with pytest.raises(KeyboardInterrupt):
    videos.write_mp4(tmp_path / "a.mp4", moving()[::-1], fps=24)
  assert os.listdir(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == before


@pytest.mark.parametrize("frames", [moving().astype(float), moving()[..., :1], moving()[0], moving()[:0], moving(width=47)])
def test_frames_that_no_file_can_hold_are_refused(tmp_path, frames):
  with pytest.raises(ValueError, match="expected uint8|even height and width"):
    videos.write_mp4(tmp_path / "a.mp4", frames, fps=24)
  assert not os.listdir(tmp_path)


def test_a_contact_sheet_shows_first_and_last_frames(tmp_path):
  clips = [still(RED).repeat(7, axis=0), still(GREEN).repeat(7, axis=0)]
  clips[1][-1] = BLUE
  videos.write_contact_sheet(tmp_path / "sheet.png", clips, columns=4)
  sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
  assert sheet.shape == (2 * 34 + 2, 4 * 50 + 2, 3)
  np.testing.assert_array_equal(sheet[17, 25], RED)
  np.testing.assert_array_equal(sheet[51, 25], GREEN)
  np.testing.assert_array_equal(sheet[51, -25], BLUE)


def test_a_loop_plays_all_frames_for_ever_and_enlarges_small_clips(tmp_path):
  clips = [still(RED).repeat(3, axis=0), still(GREEN).repeat(3, axis=0)]
  clips[1][1], clips[1][2] = RED, BLUE  # equal frames would be written as one
  videos.write_loop(tmp_path / "loop.webp", clips, fps=10, titles=["a red frame", "green and then blue"], width=110)
  height, width = 2 * clips[0].shape[1], 2 * clips[0].shape[2]
  loop = Image.open(tmp_path / "loop.webp")
  assert (loop.n_frames, loop.info["loop"], loop.size[0]) == (3, 0, 2 * (width + 8) + 8)
  middles = []
  for number in range(3):
    loop.seek(number)
    frame = np.asarray(loop.convert("RGB")).astype(int)
    middles.append((frame[8 + height // 2, 8 + width // 2], frame[8 + height // 2, -8 - width // 2]))
    assert frame[8 + height + 2:].min() < 100  # words
  for (left, right), want in zip(middles, (GREEN, RED, BLUE)):
    assert np.abs(left - RED).max() < 12 and np.abs(right - np.asarray(want)).max() < 12


def test_a_folder_that_is_not_there_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write a.mp4 to"):
    videos.write_mp4(tmp_path / "nowhere" / "a.mp4", still(RED), fps=24)


def test_a_loop_wants_a_title_for_each_clip(tmp_path):
  with pytest.raises(ValueError, match="a title each"):
    videos.write_loop(tmp_path / "loop.webp", [still(RED)], fps=10, titles=[])
  assert not os.listdir(tmp_path)
