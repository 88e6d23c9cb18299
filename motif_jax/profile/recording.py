"""Takes a trace of a few steps of a compiled program, and keeps with it what is needed to read it again anywhere.

The folder of the trace, workdir/plugins/profile/DATE, is what TensorBoard and xprof open.  Beside their files lie
  program.hlo.gz   the compiled module as text: which instruction belongs to which scope
  run.json         what ran, on what, how fast without a trace, and its memory
"""

import dataclasses
import gzip
import json
import pathlib
import time
from collections.abc import Callable

import jax

from motif_jax import compiled
from motif_jax.bench import measure, results
from motif_jax.bench.case import Prepared
from motif_jax.profile import report, scopes, trace

PROGRAM, RUN = "program.hlo.gz", "run.json"
BUFFERS = 8  # largest ones kept


def record(prepared: Prepared, workdir: str | pathlib.Path, *, first: int, stop: int, about: dict) -> pathlib.Path:
  """The folder of a trace of calls [first, stop) of `prepared`; the calls before warm up, and their end is timed without a trace.

  `about` says in JSON what runs; its "program" is the name at the root of the report.
  """
  executable, _ = measure.compile_(prepared)
  planned, room = compiled.memory(executable), measure.memory_of(jax.devices()[0])
  if planned.total > room:  # on a CPU the system would end the process
    raise ValueError(f"The compiler plans {planned.total / 1e9:.3g} GB and the device has {room / 1e9:.3g} GB; take a smaller "
                     "--config.data.batch_size or --bucket, or see python -m launch.plan for what would fit.")
  call = measure.caller(executable, prepared)
  alone = max(0, min(stop - first, first - 1))  # of the first call, much is loading and tuning
  _run(call, first - alone)
  without = _run(call, alone) / alone if alone else None
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # every Python call would be an event, and take time
  with jax.profiler.trace(str(workdir), profiler_options=options):
    inside = _run(call, stop - first) / (stop - first)
  folder = trace.folder_of(workdir)
  text = executable.as_text()
  (folder / PROGRAM).write_bytes(gzip.compress(text.encode(), 6))
  run = about | results.here() | dict(
      steps=[first, stop], seconds=inside, seconds_without_trace=without, platform=jax.default_backend(),
      memory=planned._asdict(), peak_bytes=measure.peak_bytes(),
      buffers=[b._asdict() | dict(scope=" > ".join(scopes.scope_of(b.source)))
               for b in compiled.largest_buffers(text, BUFFERS)])
  (folder / RUN).write_text(json.dumps(run, indent=1))
  return folder


def read(path: str | pathlib.Path) -> tuple[report.Report, dict, pathlib.Path]:
  """(report, what ran, folder) of the newest recording in `path`; ValueError if there is none."""
  folder = trace.folder_of(path)
  missing = [name for name in (PROGRAM, RUN) if not (folder / name).exists()]
  if missing:
    raise ValueError(f"{folder} holds a trace without {' and '.join(missing)}, which name the scopes: it was not taken by "
                     "python -m launch.profile --workdir=DIR.  TensorBoard and xprof can open it.")
  run = json.loads((folder / RUN).read_text())
  text = gzip.decompress((folder / PROGRAM).read_bytes()).decode()
  module = text.split(None, 2)[1].rstrip(",")  # "HloModule jit_step, ..."
  first, stop = run["steps"]
  made = report.make_report(trace.read(folder), scopes.origins(text), module=module, steps=stop - first, root=run["program"])
  return made, run, folder


def write(made: report.Report, run: dict, folder: pathlib.Path, lines: list[str]) -> None:
  """Keeps the report beside its trace: report.json and report.txt."""
  (folder / "report.json").write_text(json.dumps(dict(run=run, report=dataclasses.asdict(made)), indent=1))
  (folder / "report.txt").write_text("\n".join(lines) + "\n")


def _run(call: Callable, count: int) -> float:
  """Seconds of so many calls, dispatched one after another and waited for at the end, as training does."""
  started, results = time.perf_counter(), None
  for _ in range(count):
    results = call()
  jax.block_until_ready(results)
  return time.perf_counter() - started
