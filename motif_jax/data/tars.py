"""WebDataset tar shards: videos and images with their captions as neighbours in a tar, one name with several endings.

  0001.mp4, 0001.json, 0001.txt    a sample; `captions.beside` says what the two others may hold

Nothing is ever unpacked: a video is read where it lies in the tar, by the position of its bytes, so that a member's name is
a name and no path.  Tars are read from front to back once, header by header; videos are skipped over.
"""

import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from motif_jax.data.captions import BESIDE, ROW_BYTES
from motif_jax.data.videos import SUFFIXES

HEADER_BYTES = 1 << 16  # of a long name or a table of attributes; they come into memory
_OF_NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class BadTar(ValueError):
  """A tar that cannot be read, or not to its end."""


class Sample(NamedTuple):
  """A video of a tar, and the files of the same name beside it."""

  name: str  # of the video
  span: tuple[int, int]  # (first, size) of its bytes
  beside: dict[str, bytes]  # suffix -> content, of those in `BESIDE`


def samples(path: pathlib.Path) -> Iterator[Sample | str]:
  """The samples of a tar in their order, and a sentence for each group without a video.  Raises `BadTar`, after what is whole."""
  name, group = None, {}
  with open(path, "rb") as file:
    for info in _members(file, path):
      folder, _, base = info.name.rpartition("/")
      stem, dot, ending = base.partition(".")  # WebDataset's rule: a sample is called by what stands before the first dot
      if not stem:
        continue  # hidden files, as macOS leaves them
      if (folder, stem) != name:
        yield from _sample(group)
        name, group = (folder, stem), {}
      group[info.name] = _Member(dot + ending.lower(), info, _content(file, info, dot + ending.lower()))
    yield from _sample(group)


class _Member(NamedTuple):
  suffix: str
  info: tarfile.TarInfo
  content: bytes | None


def _sample(group: dict[str, _Member]):
  filmed = [member for member in group.values() if member.suffix in SUFFIXES]
  if filmed:
    info = min(filmed, key=lambda member: SUFFIXES.index(member.suffix)).info  # a video goes before a picture of it
    yield Sample(info.name, (info.offset_data, info.size),
                 {member.suffix: member.content for member in group.values() if member.content is not None})
  elif any(member.content is not None for member in group.values()):
    yield f"{', '.join(group)}: a caption without a video or an image."


def _content(file, info, suffix) -> bytes | None:
  if suffix not in BESIDE:
    return None
  file.seek(info.offset_data)
  return file.read(min(info.size, ROW_BYTES + 1))  # one byte too many tells that it is too long


class _Header(tarfile.TarInfo):
  """A header that may not announce more than `HEADER_BYTES` of names."""

  @classmethod
  def frombuf(cls, buf, encoding, errors):
    info = super().frombuf(buf, encoding, errors)
    if info.type in _OF_NAMES and info.size > HEADER_BYTES:
      raise BadTar(f"a name or its attributes take {info.size} bytes, expected at most {HEADER_BYTES}")
    return info


def _members(file, path) -> Iterator[tarfile.TarInfo]:
  """The regular files of a tar, whose bytes are all there."""
  size = os.fstat(file.fileno()).st_size
  try:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
      while info := tar.next():
        tar.members.clear()  # or it remembers every header
        if info.offset_data + info.size > size:
          raise BadTar(f"{info.name} ends {info.offset_data + info.size - size} bytes after the file does, which is cut short")
        if info.isreg() and not info.issparse():
          yield info
      file.seek(tar.offset)
      if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # `next` takes a damaged header for the end
        raise BadTar(f"the header at byte {tar.offset} is damaged")
  except (tarfile.TarError, OSError, ValueError, OverflowError) as e:
    raise BadTar(f"{path} cannot be read as a tar, or not to its end: {e}.") from e
