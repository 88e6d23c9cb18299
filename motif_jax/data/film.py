"""A video file opened for reading: frames with their times, upright, and everything that can be wrong with a file.

What FFmpeg may open is limited to files, and to containers of videos and images: it looks at the content alone, so that playlists
and lists of files called .mp4 would be opened too, and with them any other file or address that they name.
"""

import collections
import os
import time
from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation

RATE = 24.0  # frames a second, where a file does not say
SECONDS = 60.0  # for one file; checked between packets, and by FFmpeg while it waits
MAX_PIXELS = 1 << 26  # of a frame: 8192 x 8192
# A header that promises more seconds, fewer frames a second or more frames than the file has bytes is taken for damaged.
LONGEST, SLOWEST = 86_400.0, 0.5
_ALLOWED = {"protocol_whitelist": "file,subfile",
            "format_whitelist": "mov,matroska,webm,avi,mpegts,png_pipe,jpeg_pipe,webp_pipe"}
# Titles in other encodings than UTF-8: PyAV 18 must be told to bear them, 19 does by itself (2026-11).
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
# Chroma at full resolution: 1.5 dB on saturated edges against FFmpeg's default.
CHROMA = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


class UnreadableVideo(ValueError):
  """A file that cannot give the frames asked of it; `kind` says why: "unreadable", "too short", "too small" or "too slow"."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind

  def __reduce__(self):
    return type(self), (self.kind, str(self))


class Film:
  """A context of a file's video stream; what PyAV raises becomes `UnreadableVideo`.  `span`: (first, size) of the bytes where the
  video lies within a file."""

  def __init__(self, path, span: tuple[int, int] | None = None):
    self._name, self._path, self._span = str(path), os.path.abspath(path), span
    self._until = time.monotonic() + SECONDS

  def __enter__(self) -> "Film":
    if not os.path.isfile(self._path):  # a pipe would be waited for, for ever
      raise self.fault("is no file" if os.path.exists(self._path) else "does not exist")
    self._bytes = self._span[1] if self._span else os.path.getsize(self._path)
    if not self._bytes:
      raise self.fault("is empty (0 bytes)")
    self._open()
    return self

  def __exit__(self, *error) -> None:
    self._container.close()

  def fault(self, said: str, kind: str = "unreadable") -> UnreadableVideo:
    """An error about this file."""
    return UnreadableVideo(kind, f"{self._name} {said}.")

  @property
  def rate(self) -> float:
    """Frames a second, on average."""
    stream, steady = self._stream, self._stream.guessed_rate or self._stream.average_rate or RATE
    if not stream.frames or not stream.duration:
      return float(stream.average_rate or steady)
    # Over the whole file: FFmpeg's average is that of the first frames.  What is cut without encoding counts frames that are not
    # shown, which come at their steady rate.
    return float(min(stream.frames / (stream.duration * stream.time_base), steady))

  def count(self) -> int:
    """The number of frames that the header promises; where it is silent, that of the packets.  Ask before `frames`."""
    stream, rate = self._stream, self.rate
    seconds = float((stream.duration or 0) * stream.time_base)
    if not seconds:  # Matroska tells when each stream ends, or at least when the last one does
      ends = _seconds(stream.metadata.get("DURATION", "")) or (self._container.duration or 0) / av.time_base
      seconds = max(0.0, ends - float((stream.start_time or 0) * stream.time_base))
    count = round(seconds * rate) or stream.frames
    if count > self._bytes or seconds > LONGEST or count > 1 and rate < SLOWEST:
      raise self.fault(f"promises {max(count, stream.frames)} frames in {seconds:g} s, and has {self._bytes} bytes; its header "
                       "is damaged")
    if not count:
      count = sum(packet.size > 0 for packet in self._packets())
      self._reopen()
    return max(1, count)

  def frames(self, start: float = 0.0) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """(seconds when it comes, seconds when it goes, frame) in order, from the one on screen at `start` or an earlier one on."""
    origin = self._stream.start_time or 0
    if start > 0:
      try:
        self._container.seek(origin + int(start / self._stream.time_base), stream=self._stream)
      except (av.FFmpegError, OSError):  # a container without an index
        self._reopen()
    landed = False
    for frame in self._decoded():
      shown = 0.0 if frame.pts is None else float((frame.pts - origin) * self._stream.time_base)
      if not landed and start > 0 and shown > start + 0.5 / self.rate:  # too far: the index does not say where frames begin
        self._reopen()
        yield from self.frames()
        return
      landed = True
      yield shown, shown + (float(frame.duration * self._stream.time_base) or 1 / self.rate), frame

  def at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
    """The frame on screen at each of `times`, which rise; raises "too short" where the video ends before.

    A frame is on screen until the next one comes, whenever that is, and the last one as long as it says."""
    promised = self.count()
    # Nearly half a frame of slack: time stamps are rounded to the container's clock, and average rates by the header.
    left, slack = collections.deque(times), 0.49 / self.rate
    held, until, fault = None, 0.0, None
    try:
      for comes, goes, frame in self.frames(times[0]):
        while held is not None and left and comes > left[0] + slack:
          left.popleft()
          yield held
        if not left:
          return
        held, until = frame, goes
    except UnreadableVideo as e:  # of a frame after those asked for, perhaps
      fault = e
    while held is not None and left and left[0] < until - 0.05 / self.rate:
      left.popleft()
      yield held
    if left and fault:
      raise fault
    if left and (reached := round(until * self.rate)) < promised - 1:
      raise self.fault(f"breaks off after {reached} of {promised} frames; the file is cut short")
    if left:
      raise self.fault(f"gives {len(times) - len(left)} frames from {times[0]:g} s on, expected at least {len(times)}; use a "
                       "longer clip or a bucket of fewer frames", "too short")

  def size(self, frame) -> tuple[int, int]:
    """(height, width) of `frame` upright, in square pixels, of which none is made up."""
    height, width = self._square(frame)
    return (width, height) if _quarter_turns(frame) % 2 else (height, width)

  def pixels(self, frame, height: int, width: int) -> np.ndarray:
    """`frame` upright as uint8 (height, width, 3): scaled to cover, cut at the centre."""
    turns = _quarter_turns(frame)
    rows, columns = self._square(frame)
    if turns % 2:
      height, width = width, height
    if rows < height or columns < width:
      raise self.fault(f"is {rows} x {columns} (height x width), the bucket needs at least {height} x {width}: clips are never "
                       "upscaled. Use a smaller bucket", "too small")
    scale = max(height / rows, width / columns)
    scaled = (max(height, round(rows * scale)), max(width, round(columns * scale)))
    # Area averages the pixels that fall together, so shrinking does not alias; at equal size only chroma is interpolated.
    kind = Interpolation.BICUBIC if scaled == (frame.height, frame.width) else Interpolation.AREA
    pixels = frame.reformat(scaled[1], scaled[0], format="rgb24", interpolation=kind | CHROMA).to_ndarray()
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return np.rot90(pixels[top:top + height, left:left + width], turns)

  def _square(self, frame) -> tuple[int, int]:
    """(height, width) of `frame` as stored, but in square pixels: discs and old cameras store wide or narrow ones."""
    aspect = float(self._stream.sample_aspect_ratio or 1)
    return (round(frame.height / aspect), frame.width) if aspect > 1 else (frame.height, round(frame.width * aspect))

  def _open(self) -> None:
    # A protocol before every path, or FFmpeg would take a file named "http:..." for an address.
    url = f"subfile,,start,{self._span[0]},end,{sum(self._span)},,:{self._path}" if self._span else f"file:{self._path}"
    try:
      # The limit of pixels here as well: FFmpeg decodes an image to see what it is.
      self._container = av.open(url, options=_ALLOWED | _limit(), timeout=SECONDS, **_LENIENT)
    except (av.FFmpegError, OSError) as e:
      other = isinstance(e, av.ArgumentError)  # a format that is not in `_ALLOWED`
      raise self.fault(f"is not a video that FFmpeg can open: {'it holds something else' if other else e.strerror}") from e
    streams = [stream for stream in self._container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams or streams[0].codec_context is None:
      self._container.close()
      raise self.fault("is in a codec that this FFmpeg cannot decode" if streams else "holds no video stream")
    self._stream = streams[0]
    self._stream.thread_count = 1  # files are read in parallel by the caller
    context = self._stream.codec_context
    context.options = _limit()
    if context.width * context.height > MAX_PIXELS:
      self._container.close()
      raise self.fault(f"has frames of {context.height} x {context.width}, more than {MAX_PIXELS} pixels", "too large")

  def _reopen(self) -> None:
    self._container.close()
    self._open()

  def _packets(self):
    try:
      for packet in self._container.demux(self._stream):
        if time.monotonic() > self._until:
          raise self.fault(f"was not read within {SECONDS:g} s", "too slow")
        yield packet
    except (av.FFmpegError, OSError) as e:
      raise self.fault(f"breaks off while reading: {e.strerror}") from e

  def _decoded(self):
    for packet in self._packets():
      try:
        frames = packet.decode()
      except (av.FFmpegError, OSError) as e:
        # The size of an image is not known beforehand: a decompression bomb ends here.
        said = "" if self._stream.codec_context.width else f" (more than {MAX_PIXELS} pixels are not decoded)"
        raise self.fault(f"breaks off while decoding: {e.strerror}{said}") from e
      for frame in frames:
        if frame.is_corrupt:
          raise self.fault("is damaged: a frame cannot be decoded whole")
        yield frame


def _limit() -> dict[str, str]:
  return {"max_pixels": str(MAX_PIXELS)}


def _seconds(text: str) -> float:
  """The seconds of a tag such as "00:01:02.500000000"; 0 where it says none."""
  try:
    hours, minutes, seconds = text.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
  except ValueError:
    return 0.0


def _quarter_turns(frame) -> int:
  """Counter-clockwise quarter turns that put a frame upright: phones store portrait video as rotated landscape."""
  return round(frame.rotation / 90) % 4
