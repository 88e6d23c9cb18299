"""Real files of many codecs, rates and shapes give the frames that were rendered into them, each told by its own number; and
files that are broken, or that mean harm, cost one sentence."""

import fractions
import math
import os
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from motif_jax.config import BucketConfig
from motif_jax.data import film, videos

ROWS, COLUMNS = 2, 4  # blocks of a frame, each of which is a bit of its number
KEYS = 10  # frames from one key frame to the next


def numbered(number, height=32, width=48):
  """A picture of `number` below 256 as bright and dark blocks, (height, width, 3): turned or mirrored, it is another number."""
  bits = np.array([number >> i & 1 for i in range(ROWS * COLUMNS)]).reshape(ROWS, COLUMNS)
  rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
  return (bits[rows][:, columns, None] * 190 + 30).astype(np.uint8).repeat(3, axis=2)


def number_of(picture):
  height, width, _ = picture.shape
  blocks = picture.reshape(ROWS, height // ROWS, COLUMNS, width // COLUMNS, 3)
  bright = blocks[:, 2:-2, :, 2:-2].mean((1, 3, 4)) > 125
  return sum(1 << i for i, bit in enumerate(bright.ravel()) if bit)


def write(path, numbers, *, codec="libx264", rate=24, ticks=None, height=32, width=48, aspect=None, title="", container=None, **options):
  """A video of `numbers`; `ticks`: the time of each in milliseconds, where the rate varies."""
  with av.open(str(path), "w", format=container) as container:
    stream = container.add_stream(codec, rate=fractions.Fraction(rate).limit_denominator(1001), options=options)
    stream.width, stream.height = width, height
    container.metadata["title"] = title
    stream.pix_fmt = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    stream.thread_count, stream.gop_size = 1, KEYS
    if aspect:
      stream.sample_aspect_ratio = aspect
    if ticks:
      stream.time_base = stream.codec_context.time_base = fractions.Fraction(1, 1000)
    for i, number in enumerate(numbers):
      picture = av.VideoFrame.from_ndarray(numbered(number, height, width), format="rgb24")
      if ticks:
        picture.pts, picture.time_base = ticks[i], fractions.Fraction(1, 1000)
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
  return path


def numbers_in(path, frames, *, height=32, width=48, **options):
  return [number_of(picture) for picture in videos.read_clip(path, BucketConfig(frames, height, width), **options)]


LARGE = dict(height=64, width=96)  # below it x265 writes past its buffers, and SVT refuses
CODECS = {  # file -> what writes it
    "h264.mp4": dict(codec="libx264"), "h264.mkv": dict(codec="libx264"),
    "open.mp4": dict(codec="libx264", x264opts="open-gop=1"), "av1.mp4": dict(codec="libsvtav1", **LARGE),
    "hevc.mp4": dict(codec="libx265", **LARGE, **{"x265-params": "log-level=none"}),
    "vp9.webm": dict(codec="libvpx-vp9", deadline="realtime"), "mpeg4.avi": dict(codec="mpeg4"), "mpeg4.mov": dict(codec="mpeg4"),
    "ffv1.mkv": dict(codec="ffv1"), "prores.mov": dict(codec="prores_ks"), "mjpeg.avi": dict(codec="mjpeg"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp("codecs")
  for name, options in CODECS.items():
    write(folder / name, range(3, 40), **options)
  return folder


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_the_frames_that_were_rendered(written, name):
  size = dict(height=CODECS[name].get("height", 32), width=CODECS[name].get("width", 48))
  assert videos.probe(written / name) == videos.Probe(frames=37, fps=24.0, **size)
  assert numbers_in(written / name, 37, **size) == list(range(3, 40))
  for start in (9, 10, 11, 29, 31):  # around key frames, from which decoding begins
    assert numbers_in(written / name, 5, start=start / 24, **size) == list(range(3 + start, 8 + start))


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm"])
def test_a_video_is_read_where_it_lies_within_a_file(written, tmp_path, name):
  content = (written / name).read_bytes()
  (tmp_path / "0, :tar").write_bytes(b"x" * 517 + content + content[:1000])
  span = (517, len(content))
  assert videos.probe(tmp_path / "0, :tar", span=span).frames == 37
  assert numbers_in(tmp_path / "0, :tar", 5, start=1.0, span=span) == list(range(27, 32))


@pytest.mark.parametrize("rate", [12, 24000 / 1001, 24, 25, 30, 50, 60000 / 1001])
def test_every_rate_is_thinned_to_the_frames_on_screen(tmp_path, rate):
  write(tmp_path / "a.mp4", range(60), rate=rate)
  probe = videos.probe(tmp_path / "a.mp4")
  assert probe.fps == pytest.approx(min(rate, 24)) and probe.frames == math.ceil(60 * probe.fps / rate - 0.1)
  got = numbers_in(tmp_path / "a.mp4", probe.frames)
  assert got == [math.floor(i * rate / probe.fps + 0.49) for i in range(probe.frames)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_where_the_rate_varies_times_decide_and_not_counts(tmp_path, name):
  # Held for a second, then a burst at 100 a second, then steady at 25.
  ticks = [0, 1000, *(1000 + 10 * i for i in range(1, 21)), *(1200 + 40 * i for i in range(1, 21))]
  write(tmp_path / name, range(len(ticks)), ticks=ticks)
  probe = videos.probe(tmp_path / name)
  assert probe.fps == pytest.approx(dict(mp4=len(ticks) / 2.04, mkv=24)[name[-3:]], rel=1e-2)
  assert probe.frames == pytest.approx(2.04 * probe.fps, abs=0.9)
  got = numbers_in(tmp_path / name, probe.frames)
  late = 0.49 / probe.fps  # frames come this much early: half of one's time, on average
  assert got == [max(n for n, tick in enumerate(ticks) if tick / 1000 <= i / probe.fps + late) for i in range(probe.frames)]
  assert got[:19] == [0] * 19 and got[-1] == len(ticks) - 1


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_a_video_whose_clock_does_not_begin_at_zero_is_read_from_its_first_frame(tmp_path, name):
  container = "mpegts" if name == "a.avi" else None  # a recording under another name
  write(tmp_path / name, range(20), ticks=[5000 + 50 * i for i in range(20)], container=container)
  assert videos.probe(tmp_path / name, fps=20.0).frames in (19, 20)  # such recordings tell no exact length
  assert numbers_in(tmp_path / name, 19, fps=20.0) == list(range(19))
  assert numbers_in(tmp_path / name, 5, start=0.5, fps=20.0) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_video_comes_out_upright(tmp_path, turns):
  path = write(tmp_path / "a.mp4", range(20, 25))
  cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]  # of a clockwise turn, as players apply it
  turn_header(path, cos, sin)
  shape = (48, 32) if turns % 2 else (32, 48)
  probe = videos.probe(path)
  assert (probe.height, probe.width) == shape
  clip = videos.read_clip(path, BucketConfig(5, *shape))
  assert [number_of(np.rot90(picture, turns)) for picture in clip] == list(range(20, 25))


def turn_header(path, cos, sin):
  content = bytearray(path.read_bytes())
  at = content.index(b"tkhd") + 44
  content[at:at + 36] = struct.pack(">9i", *(round(x * 65536) for x in (cos, sin, 0, -sin, cos, 0, 0, 0)), 1 << 30)
  path.write_bytes(content)


def test_a_title_in_another_encoding_does_no_harm(tmp_path):
  path = write(tmp_path / "a.avi", range(5), codec="mpeg4", title="Quatre saisons")
  content = path.read_bytes()
  path.write_bytes(content.replace(b"Quatre saisons", "Une journ\u00e9e...".encode("latin-1")))
  assert path.read_bytes() != content and numbers_in(path, 5) == list(range(5))


def test_pixels_that_are_not_square_are_made_so(tmp_path):
  write(tmp_path / "wide.mp4", range(5), aspect=fractions.Fraction(3, 2))
  write(tmp_path / "narrow.mp4", range(5), aspect=fractions.Fraction(2, 3))
  wide, narrow = videos.probe(tmp_path / "wide.mp4"), videos.probe(tmp_path / "narrow.mp4")
  assert (wide.height, wide.width) == (21, 48) and (narrow.height, narrow.width) == (32, 32)
  assert numbers_in(tmp_path / "narrow.mp4", 5, height=32, width=32) == list(range(5)), "nothing is cut off"
  assert numbers_in(tmp_path / "wide.mp4", 5, height=20, width=44) == list(range(5))
  with pytest.raises(videos.UnreadableVideo, match="21 x 48"):
    numbers_in(tmp_path / "wide.mp4", 5, height=24, width=48)


def copied(source, path, *, skip):
  """The packets of `source` from its first key frame on, shown from frame `skip` on: what cutting without encoding makes."""
  with av.open(str(source)) as old, av.open(str(path), "w") as new:
    stream = new.add_stream_from_template(old.streams.video[0])
    for packet in old.demux(video=0):
      if packet.dts is not None:
        shift = round(skip / 24 / packet.time_base)
        packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
        new.mux(packet)
  return path


def test_what_was_cut_without_encoding_begins_where_players_do(written, tmp_path):
  path = copied(written / "h264.mp4", tmp_path / "a.mp4", skip=13)
  assert videos.probe(path).frames == 24
  assert numbers_in(path, 24) == list(range(16, 40)) and numbers_in(path, 3, start=0.5) == [28, 29, 30]


def test_a_recording_whose_header_knows_no_length_is_counted(written, tmp_path):
  content = bytearray((written / "vp9.webm").read_bytes())
  at = content.index(b"\x44\x89\x88")  # Duration, of eight bytes
  content[at:at + 2] = b"\xec\x89"  # Void
  (tmp_path / "a.webm").write_bytes(content.replace(b"DURATION", b"NOTATION"))
  assert videos.probe(tmp_path / "a.webm").frames == 37
  assert numbers_in(tmp_path / "a.webm", 37) == list(range(3, 40))


def bomb(side):
  """A square PNG of one colour, a bit each pixel: a few kilobytes, however large."""
  def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
  rows = zlib.compress(bytes((1 + -(-side // 8)) * side))
  return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)) + chunk(b"IDAT", rows) +
          chunk(b"IEND", b""))


def patched(content, mark, skip, value):
  at = content.index(mark) + skip
  return content[:at] + value + content[at + len(value):]


HARMFUL = {  # name -> (how it is made of the good files, what is said)
    "text.mp4": (lambda good: b"a caption, not a video\n" * 50, "not a video"),
    "empty.webm": (lambda good: b"", "0 bytes"),
    "zeros.mp4": (lambda good: bytes(5000), "not a video"),
    "list.mp4": (lambda good: b"ffconcat version 1.0\nfile h264.mp4\n", "not a video"),
    "playlist.mp4": (lambda good: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nh264.mp4\n#EXT-X-ENDLIST\n", "not a video"),
    "bomb.png": (lambda good: bomb(8200), "more than 67108864 pixels are not decoded"),
    "cut.png": (lambda good: bomb(3000)[:200], ""),
    # Each frame for two days; a duration of thirty years.
    "years.mp4": (lambda good: patched(good("h264.mp4"), b"stts", 16, struct.pack(">I", 1 << 31)), "header is damaged"),
    "years.mkv": (lambda good: patched(good("h264.mkv").replace(b"DURATION", b"NOTATION"), b"\x44\x89\x88", 3,
                                       struct.pack(">d", 1e12)), "header is damaged"),
    "codec.mp4": (lambda good: good("h264.mp4").replace(b"avc1", b"zzzz"), "cannot decode"),
    "cut.mkv": (lambda good: good("h264.mkv")[:len(good("h264.mkv")) * 2 // 3], "breaks off after"),
    "cut.webm": (lambda good: good("vp9.webm")[:len(good("vp9.webm")) * 2 // 3], "breaks off after"),
    "cut.avi": (lambda good: good("mjpeg.avi")[:len(good("mjpeg.avi")) * 2 // 3], "breaks off after"),
    "noise.mp4": (lambda good: noisy(good("h264.mp4")), ""),
}


def noisy(content):
  """Half of the pictures' bytes replaced by noise."""
  at = content.index(b"mdat") + 4
  noise = np.random.default_rng(0).bytes((len(content) - at) // 2)
  return content[:at + 600] + noise[:-600] + content[at + len(noise):]


@pytest.mark.parametrize("name", HARMFUL)
def test_what_is_broken_or_means_harm_costs_one_sentence(written, name):
  make, said = HARMFUL[name]
  (written / name).write_bytes(make(lambda other: (written / other).read_bytes()))
  with pytest.raises(videos.UnreadableVideo, match=f"{name} .*{said}") as error:
    videos.probe(written / name)
    videos.read_clip(written / name, BucketConfig(37, 32, 48))
  assert error.value.kind in ("unreadable", "too large") and len(str(error.value)) < 300


def test_the_length_in_the_header_of_an_mp4_is_not_believed(written, tmp_path):
  content = (written / "h264.mp4").read_bytes()
  for kind, skip in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
    content = patched(content, kind, skip, struct.pack(">I", 0x7fff0000))
  (tmp_path / "a.mp4").write_bytes(content)
  assert videos.probe(tmp_path / "a.mp4").frames == 37 and numbers_in(tmp_path / "a.mp4", 37) == list(range(3, 40))


def test_frames_beyond_all_size_are_not_decoded(written, monkeypatch):
  monkeypatch.setattr(film, "MAX_PIXELS", 32 * 48 - 1)
  with pytest.raises(videos.UnreadableVideo, match="h264.mp4 has frames of 32 x 48") as error:
    videos.probe(written / "h264.mp4")
  assert error.value.kind == "too large"


def test_a_file_that_takes_too_long_is_given_up(written, monkeypatch):
  with film.Film(written / "h264.mp4") as opened:
    monkeypatch.setattr(opened, "_until", 0.0)
    with pytest.raises(videos.UnreadableVideo, match="not read within 60 s") as error:
      next(opened.frames())
  assert error.value.kind == "too slow"


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "forbidden"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
  path = tmp_path / "a.mp4"
  if kind == "folder":
    path.mkdir()
  elif kind == "loop":
    path.symlink_to(path)
  elif kind == "pipe":
    os.mkfifo(path)
  elif os.geteuid() == 0:
    pytest.skip("root may read every file")
  else:
    write(path, range(3)).chmod(0)
  with pytest.raises(videos.UnreadableVideo, match="a.mp4 (is no file|does not exist|is not a video.*Permission denied)"):
    videos.probe(path)


def test_a_file_named_like_an_address_is_a_file(written, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.link(written / "h264.mp4", "http:a%03d.mp4")
  assert videos.probe("http:a%03d.mp4").frames == 37
