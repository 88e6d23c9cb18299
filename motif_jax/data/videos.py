"""Video files in and out: frames, heights and widths of real files meet the static shapes of buckets here.  The home of PyAV.

An image is a video of one frame: PNG and JPEG files pass through the same functions.
"""

import contextlib
import dataclasses
import fractions
import math
import os
import pathlib
import uuid
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image, ImageDraw

FPS = 24.0  # faster videos are thinned to this rate, slower ones keep theirs (the released model was trained at 24)
TITLE = 12  # pixels of a line of text in a contact sheet
PARTIAL = ".partial"  # how the name of a file ends that is being written
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg", ".jpeg")


# Chroma at full resolution: 1.5 dB on saturated edges against FFmpeg's default.
_CHROMA = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


class UnreadableVideo(ValueError):
  """A file that cannot give the frames asked of it; `kind` says why: "unreadable", "too short" or "too small"."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind

  def __reduce__(self):
    return type(self), (self.kind, str(self))


@dataclasses.dataclass(frozen=True)
class Probe:
  """What a file's header promises.  `frames` counts what is left after thinning to at most `fps`, from the start asked for."""

  frames: int
  height: int
  width: int
  fps: float


def probe(path, *, start: float = 0.0, fps: float = FPS, span: tuple[int, int] | None = None) -> Probe:
  """The `Probe` of a video from `start` seconds on, upright, at a rate of at most `fps`.  Reads the header, and one frame."""
  with _open(path, span) as (container, stream):
    native = _rate(stream)
    frame = next(_decoded(path, container, stream), None)
    if frame is None:
      raise UnreadableVideo("unreadable", f"{path} holds no frame that can be decoded.")
    height, width = (frame.width, frame.height) if _quarter_turns(frame) % 2 else (frame.height, frame.width)
    count = stream.frames or (round(float(stream.duration * stream.time_base) * native) if stream.duration else 0)
    if not count and container.duration:  # Matroska keeps neither: its duration stands in the container
      count = round(container.duration / av.time_base * native)
  rate = min(native, fps)
  left = max(count, 1) - math.ceil(start * native - 1e-3)
  return Probe(frames=max(0, math.ceil(left * rate / native - 1e-3)), height=height, width=width, fps=rate)


def read_clip(path, bucket, *, start: float = 0.0, fps: float = FPS, span: tuple[int, int] | None = None) -> np.ndarray:
  """The clip of a video from `start` seconds on, uint8 (F, H, W, 3): `bucket.frames` frames at a rate of at most `fps`,
  resized to cover `bucket.height` x `bucket.width` and cut at the centre.  `span`: (first, size) of the video's bytes where it
  lies within a file.  Raises `UnreadableVideo`; never upscales."""
  taken, seen = [], 0
  with _open(path, span) as (container, stream):
    native, promised = _rate(stream), stream.frames
    rate = min(native, fps)
    for frame in _decoded(path, container, stream):
      time = frame.time if frame.time is not None else seen / native
      seen += 1
      # Half a frame of slack: time stamps are rounded to the container's clock.
      if time + 0.5 / native >= start + len(taken) / rate:
        taken.append(_fit(path, frame, bucket))
      if len(taken) == bucket.frames:
        return np.stack(taken)
  if seen < promised:
    raise UnreadableVideo("unreadable", f"{path} breaks off after {seen} of {promised} frames; the file is cut short.")
  raise UnreadableVideo("too short", f"{path} gives {len(taken)} frames at {rate:g} a second from {start:g} s on, expected at "
                        f"least {bucket.frames}; use a longer clip or a bucket of fewer frames.")


def write_mp4(path, frames: np.ndarray, *, fps: float, crf: int = 12) -> None:
  """Writes uint8 `frames` (F, H, W, 3) as H.264, 4:2:0 in BT.709 colours.  Height and width must be even.
  `crf` is the quality: 0 keeps all, 23 is usual.  The file appears whole or not at all."""
  frames = np.asarray(frames)
  if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
    raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 (F, H, W, 3) with F >= 1.")
  count, height, width, _ = frames.shape
  if height % 2 or width % 2:
    raise ValueError(f"frames are {height} x {width}; 4:2:0 video needs an even height and width.")
  faststart = {"movflags": "+faststart"}  # the index before the frames, so that a browser plays while it loads
  with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options=faststart) as container:
    stream = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"crf": str(crf), "preset": "medium"}
    stream.thread_count = 1  # many small files at once: threads belong to the caller
    stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc = 1, 1, 1, 1  # limited, BT.709
    for frame in frames:
      picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
      picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation=Interpolation.BICUBIC | _CHROMA)
      container.mux(stream.encode(picture))
    container.mux(stream.encode())


def write_contact_sheet(path, videos, *, columns: int = 8, titles: Sequence[str] = ()) -> None:
  """Writes a PNG, a row for each of `videos`, uint8 (F, H, W, 3): `columns` of its frames, evenly spaced, first to last; above
  each row its title, where there are titles."""
  videos = [np.asarray(v) for v in videos]
  if not videos or any(v.ndim != 4 or v.shape[1:] != videos[0].shape[1:] for v in videos):
    raise ValueError(f"videos have the shapes {[v.shape for v in videos]}, expected one or more of one (H, W, 3).")
  _, height, width, _ = videos[0].shape
  gap = 2
  tops = np.cumsum([gap, *(height + gap + (TITLE if title else 0) for title in titles or [""] * len(videos))])
  wide = max([columns * (width + gap), *(6 * len(title) for title in titles)]) + gap  # a letter takes about six pixels
  sheet = np.full((tops[-1], wide, 3), 255, np.uint8)
  for row, video in enumerate(videos):
    picked = np.unique(np.linspace(0, len(video) - 1, columns).round().astype(int))
    for column, frame in enumerate(video[picked]):
      y, x = tops[row + 1] - height - gap, gap + column * (width + gap)
      sheet[y:y + height, x:x + width] = frame
  picture = Image.fromarray(sheet)
  for top, title in zip(tops, titles):
    ImageDraw.Draw(picture).text((gap, top), title, fill=(0, 0, 0))
  with replacing(path) as temporary:
    picture.save(temporary, format="PNG")


@contextlib.contextmanager
def replacing(path):
  """A temporary path beside `path`, which takes its place when the body ends well (fsync, rename) and goes when it does not:
  `path` is whole or absent, never half written."""
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")  # several machines may write the same file
  try:
    yield temporary
    with open(temporary, "rb+") as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk too
    os.fsync(folder)
    os.close(folder)
  finally:
    temporary.unlink(missing_ok=True)


class _open:
  """A context of (container, first video stream) of a file; what PyAV raises becomes `UnreadableVideo`."""

  def __init__(self, path, span):
    self._path, self._span = path, span

  def __enter__(self):
    if not os.path.exists(self._path):
      raise UnreadableVideo("unreadable", f"{self._path} does not exist.")
    if not os.path.getsize(self._path):
      raise UnreadableVideo("unreadable", f"{self._path} is empty (0 bytes).")
    try:
      self._container = av.open(_url(self._path, self._span))
    except (av.FFmpegError, OSError) as e:
      raise UnreadableVideo("unreadable", f"{self._path} is not a video that FFmpeg can open: {e.strerror}.") from e
    if not self._container.streams.video:
      self._container.close()
      raise UnreadableVideo("unreadable", f"{self._path} holds no video stream.")
    stream = self._container.streams.video[0]
    stream.thread_count = 1  # files are read in parallel by the caller
    return self._container, stream

  def __exit__(self, *error):
    self._container.close()


def _url(path, span) -> str:
  # A protocol before every path, or FFmpeg would take a file named "http:..." for an address.
  path = os.path.abspath(path)
  return f"subfile,,start,{span[0]},end,{sum(span)},,:{path}" if span else f"file:{path}"


def _decoded(path, container, stream):
  """The decoded frames of `stream`, in order."""
  try:
    yield from container.decode(stream)
  except (av.FFmpegError, OSError) as e:
    raise UnreadableVideo("unreadable", f"{path} breaks off while decoding: {e.strerror}.") from e


def _rate(stream) -> float:
  return float(stream.average_rate or stream.guessed_rate or FPS)


def _quarter_turns(frame) -> int:
  """Counter-clockwise quarter turns that put a frame upright: phones store portrait video as rotated landscape."""
  return round(frame.rotation / 90) % 4


def _fit(path, frame, bucket) -> np.ndarray:
  """`frame` as uint8 (bucket.height, bucket.width, 3): scaled to cover, cut at the centre."""
  turns = _quarter_turns(frame)
  height, width = (bucket.width, bucket.height) if turns % 2 else (bucket.height, bucket.width)
  if frame.height < height or frame.width < width:
    raise UnreadableVideo("too small", f"{path} is {frame.height} x {frame.width} (height x width), the bucket needs at least "
                          f"{height} x {width}: clips are never upscaled. Use a smaller bucket.")
  scale = max(height / frame.height, width / frame.width)
  scaled = (max(height, round(frame.height * scale)), max(width, round(frame.width * scale)))
  # Area averages the pixels that fall together, so shrinking does not alias; at equal size only chroma is interpolated.
  kind = Interpolation.BICUBIC if scaled == (frame.height, frame.width) else Interpolation.AREA
  pixels = frame.reformat(scaled[1], scaled[0], format="rgb24", interpolation=kind | _CHROMA).to_ndarray()
  top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
  return np.rot90(pixels[top:top + height, left:left + width], turns)
