"""Which cases there are, and running those that are asked for, until the time is up: the rest is for the next call."""

import difflib
import gc
import time
from collections.abc import Callable, Iterable

from motif_jax.bench import attention, blocks, ceilings, checks, compiling, reference, steps
from motif_jax.bench.case import Case, Job
from motif_jax.bench.measure import measured
from motif_jax.bench.results import Results

# By group, in the order in which they run: (job) -> cases.
GROUPS: dict[str, Callable[[Job], list[Case]]] = {
    "check": checks.cases,
    "ceilings": ceilings.cases,
    "train": steps.train_cases,
    "sample": steps.sample_cases,
    "attention": attention.cases,
    "blocks": blocks.cases,
    "compile": compiling.cases,
    "reference": reference.cases,
}
OPTIONAL = ("reference",)  # not unless asked for: it needs torch


def chosen(job: Job, only: Iterable[str]) -> list[Case]:
  """The cases whose names begin with one of `only`, such as "attention" or "train/motif_2b"; without any, all but OPTIONAL."""
  only = tuple(only)
  for name in only:
    if (group := name.partition("/")[0]) not in GROUPS:
      close = difflib.get_close_matches(group, GROUPS, n=1)
      hint = f" Did you mean {close[0]!r}?" if close else ""
      raise ValueError(f"--only {name}: there is no group {group!r} of cases; known groups: {', '.join(GROUPS)}.{hint}")
  wanted = {name.partition("/")[0] for name in only} or set(GROUPS) - set(OPTIONAL)
  cases = [case for group in GROUPS if group in wanted for case in GROUPS[group](job)]
  for name in only:
    if not any(case.name.startswith(name) for case in cases):
      names = [case.name for case in cases if case.name.startswith(name.partition("/")[0])]
      near = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
      raise ValueError(f"--only {name}: no case begins so on this device; such as {', '.join(near)}; --list shows all.")
  return [case for case in cases if not only or case.name.startswith(only)]


def run(cases: list[Case], results: Results, where: dict, *, seconds: float, limit: float, again: bool = False,
        say: Callable[[str], None] = print) -> list[Case]:
  """The cases left unmeasured, because no case is begun after `limit` seconds; what is in `results` already is passed over."""
  started, left = time.perf_counter(), []
  for case in cases:
    if not again and results.find(case.name, case.settings, where):
      continue
    if time.perf_counter() - started > limit:
      left.append(case)
      continue
    found = measured(case, seconds=seconds)
    gc.collect()  # arrays of a case that failed may hang in cycles, and the next one needs the room
    work = {"dtype": case.dtype, "model_flops": case.model, "executed_flops": case.executed}
    entry = results.add(case.name, case.settings, where, work | found)
    say(f"{case.name}: {entry['status'] if entry['status'] == 'ok' else entry['reason'][:160]}")
  return left
