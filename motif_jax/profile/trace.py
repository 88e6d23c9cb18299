"""What the profiler has recorded: every kernel or instruction that ran, from the xplane file of a trace.

What jax 0.10.2 and 0.11.2 write, and what is read of it:
  CPU   one plane "/host:CPU", a line per thread.  An instruction is an event with the stats hlo_op, hlo_module and, for virtual
        devices, device_ordinal.  Loops hold what they run, on their own thread or on another; what a matrix product hands to
        helper threads is not recorded.
  GPU   a plane "/device:GPU:0" for each device with a line "Stream #13(Kernel)" for each stream.  A kernel or copy is an event
        with the stats hlo_op and hlo_module where XLA has annotated its launch.  Kernels of a CUDA graph are annotated with its
        command buffer alone (openxla/xprof issues 2544 and 3070), but XLA calls its own kernels after their instruction.  Lines
        such as "XLA Ops", which viewers derive, repeat the streams and are passed over.  Written from the sources of XLA's
        collector (cupti_collector.cc): no trace of a GPU has been read yet.
"""

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax


class Op(NamedTuple):
  """One kernel, copy or instruction that ran."""

  device: str  # "CPU:0", "GPU:3", with the process before it where several wrote the trace
  lane: str  # thread or stream
  start: float  # ns
  stop: float
  name: str  # of the HLO instruction; "" where the trace does not say
  kernel: str  # name of the event: on GPUs the kernel's, on CPU the instruction's
  module: str  # of HLO; "" where the trace does not say

  @property
  def stretch(self) -> tuple[float, float]:
    return self.start, self.stop


def folder_of(path: str | pathlib.Path) -> pathlib.Path:
  """The folder of the newest trace in `path`, which may be that folder itself; ValueError if there is none."""
  files = sorted(pathlib.Path(path).rglob("*.xplane.pb"), key=lambda file: (file.parent.name, file.stat().st_mtime))
  if not files:
    raise ValueError(f"{path} holds no trace: expected a file *.xplane.pb in it or below it, as python -m launch.profile "
                     "--workdir=DIR and jax.profiler.trace write it.")
  return files[-1].parent


def read(folder: str | pathlib.Path) -> list[Op]:
  """All that ran in the trace of `folder`, of all processes that wrote there, in order of time."""
  files = sorted(pathlib.Path(folder).glob("*.xplane.pb"))
  found = []
  for file in files:
    process = f"{file.name.removesuffix('.xplane.pb')} " if len(files) > 1 else ""
    found += ops_of(jax.profiler.ProfileData.from_file(str(file)).planes, process=process)
  return sorted(found, key=lambda op: (op.start, op.stop))


def ops_of(planes: Iterable, *, process: str = "") -> Iterator[Op]:
  """Yields what ran, of planes as `jax.profiler.ProfileData` has them; `process` goes before the names of devices."""
  for plane in planes:
    if device := re.search(r"/device:(\w+:\d+)", plane.name):
      yield from _of_device(plane, process + device.group(1))
    elif plane.name == "/host:CPU":
      yield from _of_host(plane, process)


def _of_device(plane, device):
  for line in plane.lines:
    if line.name.startswith("Stream"):
      yield from (_op(event, dict(event.stats), device, line.name) for event in line.events)


def _of_host(plane, process):
  for line in plane.lines:
    for event in line.events:
      stats = dict(event.stats)
      if "hlo_op" in stats:
        yield _op(event, stats, f"{process}CPU:{stats.get('device_ordinal', 0)}", line.name)


def _op(event, stats, device, lane) -> Op:
  name = str(stats.get("hlo_op", ""))
  return Op(device, lane, event.start_ns, event.start_ns + event.duration_ns, "" if name.startswith("command_buffer") else name,
            event.name, str(stats.get("hlo_module", "")))
