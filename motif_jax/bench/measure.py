"""What a case costs here: compiled, warmed up, called many times, its median and quartiles; a failure is a result too.

Seconds of compiling are what this call took: next to none where jax's cache on disk has the program (group "compile" empties it).
"""

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable

import jax

from motif_jax import compiled
from motif_jax.bench.case import Case, Prepared

BLOCK = 0.02  # seconds: calls are dispatched in blocks of about this length, so that waiting for one costs nothing
LEAST, MOST = 3, 20  # blocks


def measured(case: Case, *, seconds: float) -> dict:
  """What there is to record of `case`, calling it for about `seconds`: status "ok", or "failed" with a reason."""
  if case.refusal:
    return {"status": "failed", "reason": case.refusal}
  try:
    found = case.measure() if case.measure else _timed(case.prepare(), seconds)
  except Exception as e:  # whatever a compiler or a device says, the next case may still run
    return {"status": "failed", "reason": reason_of(e)}
  return {"status": "ok"} | found


def reason_of(error: Exception) -> str:
  """One line on what went wrong."""
  said = " ".join(str(error).split())
  kind = "out of memory" if "RESOURCE_EXHAUSTED" in said or isinstance(error, MemoryError) else type(error).__name__
  return f"{kind}: {said[:300]}"


def _timed(prepared: Prepared, seconds) -> dict:
  executable, record = compile_within(prepared, memory_of(jax.devices()[0]))
  before = peak_bytes()
  record["seconds"] = times(caller(executable, prepared), seconds=seconds)
  if (after := peak_bytes()) > before:  # the device counts from the start of the process: else another case set the peak
    record["peak_bytes"] = after
  return record


def compile_within(prepared: Prepared, room: float) -> tuple[Callable, dict]:
  """(executable, what its compiling took and what it plans to hold); MemoryError where that is more than `room`, in bytes."""
  started = time.perf_counter()
  executable, lowering = compile_(prepared)
  compiling = time.perf_counter() - started - lowering
  planned = compiled.memory(executable)
  if planned.total > room:  # on a CPU the system would end the process
    raise MemoryError(f"the compiler plans {planned.total / 1e9:.3g} GB, and the device has {room / 1e9:.3g} GB")
  return executable, {"lower_s": lowering, "compile_s": compiling, "argument_bytes": planned.arguments,
                      "output_bytes": planned.outputs, "planned_bytes": planned.total}


def compile_(prepared: Prepared):
  """(executable, seconds of lowering)."""
  started = time.perf_counter()
  if prepared.mesh is None:
    lowered = prepared.function.lower(*prepared.inputs[0])
  else:
    with jax.set_mesh(prepared.mesh):
      lowered = prepared.function.lower(*prepared.inputs[0])
  lowering = time.perf_counter() - started
  return lowered.compile(), lowering


def caller(executable: Callable, prepared: Prepared) -> Callable:
  """() -> the results of the next call, not waited for; inputs take turns."""
  turns = itertools.cycle(prepared.inputs)
  if not prepared.carry:
    return lambda: executable(*next(turns))
  state = prepared.inputs[0][0]
  prepared.inputs[:] = [(None, *rest) for _, *rest in prepared.inputs]  # it is donated: nothing else may hold it

  def call():
    nonlocal state
    _, *rest = next(turns)
    state, *results = executable(state, *rest)
    return state, results

  return call


def times(call: Callable, *, seconds: float) -> dict:
  """Seconds of a call: median, quartiles, and how they were taken.

  Each figure is of a block of calls, of which the last is waited for: devices run them in order.
  """
  one = _block(call, 1)  # the first call loads, allocates and tunes
  one = _block(call, 1) if one > 1 else min(_block(call, 1) for _ in range(2))
  calls = max(1, min(1000, math.ceil(BLOCK / one)))
  first = [one] if calls == 1 else []  # of long calls none is wasted
  blocks = max(LEAST, min(MOST, int(seconds / (one * calls)))) - len(first)
  found = first + [_block(call, calls) / calls for _ in range(blocks)]
  low, median, high = statistics.quantiles(found, n=4, method="inclusive")
  return {"median": median, "low": low, "high": high, "blocks": len(found), "calls": calls}


def _block(call, count):
  started = time.perf_counter()
  for _ in range(count):
    results = call()
  jax.block_until_ready(results)
  return time.perf_counter() - started


def memory_of(device) -> float:
  """Bytes that a program may use on `device`."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  return 0.7 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.platform == "cpu" else math.inf


def peak_bytes() -> int:
  """The most bytes that this process has used on the first device so far; 0 where the device does not say."""
  return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
