"""Video files in and out: frames, heights and widths of real files meet the static shapes of buckets here.

An image is a video of one frame: PNG, JPEG and WebP files pass through the same functions.
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
from PIL import Image, ImageDraw, ImageFont

from motif_jax.data.film import CHROMA, Film, UnreadableVideo  # what `read_clip` raises

FPS = 24.0  # faster videos are thinned to this rate, slower ones keep theirs (the released model was trained at 24)
TITLE = 12  # pixels of a line of text in a contact sheet
HOLD = 0.6  # seconds for which a loop shows its last frame longer, so that one sees where it begins
PARTIAL = ".partial"  # how the name of a file ends that is being written
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True)
class Probe:
  """What a file's header promises.  `frames` counts what is left after thinning to at most `fps`, from the start asked for."""

  frames: int
  height: int  # upright, in square pixels
  width: int
  fps: float


def probe(path, *, start: float = 0.0, fps: float = FPS, span: tuple[int, int] | None = None) -> Probe:
  """The `Probe` of a video from `start` seconds on, upright, at a rate of at most `fps`.  Reads the header, and one frame.
  `span`: (first, size) of the video's bytes where it lies within a file."""
  with Film(path, span) as film:
    native, count = film.rate, film.count()
    _, _, frame = next(film.frames(), (0, 0, None))
    if frame is None:
      raise film.fault("holds no frame that can be decoded")
    height, width = film.size(frame)
  rate = min(native, fps)
  left = count - math.ceil(start * native - 1e-3)
  # A last frame that is there for less than a tenth of its time is none.
  return Probe(frames=max(0, math.ceil(left * rate / native - 0.1)), height=height, width=width, fps=rate)


def read_clip(path, bucket, *, start: float = 0.0, fps: float = FPS, span: tuple[int, int] | None = None) -> np.ndarray:
  """The clip of a video from `start` seconds on, uint8 (F, H, W, 3): `bucket.frames` frames at a rate of at most `fps`, each the
  one on screen at its time, resized to cover `bucket.height` x `bucket.width` and cut at the centre.  `span`: as of `probe`.
  Raises `UnreadableVideo`; never upscales."""
  with Film(path, span) as film:
    rate = min(film.rate, fps)
    taken, last = [], None
    for frame in film.at([start + i / rate for i in range(bucket.frames)]):
      taken.append(film.pixels(frame, bucket.height, bucket.width) if frame is not last else taken[-1])
      last = frame
  return np.stack(taken)


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
    # Its macroblock tree makes x264 write small frames now this way and now that, a few levels apart.
    stream.options = {"crf": str(crf), "preset": "medium", "x264-params": "mbtree=0"}
    stream.thread_count = 1  # many small files at once: threads belong to the caller
    stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc = 1, 1, 1, 1  # limited, BT.709
    for frame in frames:
      picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
      picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation=Interpolation.BICUBIC | CHROMA)
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


def write_loop(path, videos, *, fps: float, titles: Sequence[str], columns: int = 4, width: int = 160) -> None:
  """Writes an animated WebP that plays `videos`, uint8 (F, H, W, 3) of one shape, side by side for ever, each over its title.
  Small ones are enlarged up to `width`, each pixel to a square; the last frame stays `HOLD` longer."""
  videos = [np.asarray(v) for v in videos]
  if not videos or any(v.ndim != 4 or v.shape != videos[0].shape for v in videos) or len(titles) != len(videos):
    raise ValueError(f"videos have the shapes {[v.shape for v in videos]} and {len(titles)} titles, expected one or more of one "
                     "(F, H, W, 3) and a title each.")
  factor = max(1, width // videos[0].shape[2])
  videos = [v.repeat(factor, axis=1).repeat(factor, axis=2) for v in videos]
  count, high, wide, _ = videos[0].shape
  texts, gap = [_wrapped(title, wide) for title in titles], 8
  tall = high + (1 + max(map(len, texts))) * TITLE + gap
  columns = min(columns, len(videos))
  sheet = Image.new("RGB", (columns * (wide + gap) + gap, -(-len(videos) // columns) * tall + gap), "white")
  corners = [(gap + i % columns * (wide + gap), gap + i // columns * tall) for i in range(len(videos))]
  for (x, y), lines in zip(corners, texts):
    ImageDraw.Draw(sheet).multiline_text((x, y + high + 4), "\n".join(lines), fill=(31, 42, 55), font=_FONT, spacing=1)
  frames = [sheet.copy() for _ in range(count)]
  for frame, pictures in zip(frames, zip(*videos)):
    for corner, picture in zip(corners, pictures):
      frame.paste(Image.fromarray(picture), corner)
  lasts = [round(1000 / fps)] * (count - 1) + [round(1000 * (1 / fps + HOLD))]
  with replacing(path) as temporary:
    frames[0].save(temporary, format="WebP", save_all=True, append_images=frames[1:], duration=lasts, loop=0, method=6)


_FONT = ImageFont.load_default(TITLE - 1)


def _wrapped(text: str, wide: int) -> list[str]:
  """The lines of `text` that are no wider than `wide` pixels, where its words allow."""
  lines = [""]
  for word in text.split():
    longer = f"{lines[-1]} {word}".strip()
    lines[-1:] = [longer] if _FONT.getlength(longer) <= wide or not lines[-1] else [lines[-1], word]
  return lines


@contextlib.contextmanager
def replacing(path):
  """A temporary path beside `path`, which takes its place when the body ends well (fsync, rename) and goes when it does not:
  `path` is whole or absent, never half written."""
  path = pathlib.Path(path)
  if not path.parent.is_dir():
    raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to.")
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
