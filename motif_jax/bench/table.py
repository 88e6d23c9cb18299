"""Results as a table: speed, the share of the measured ceilings, the floor that they imply and how close a case comes to it.

The floor of a case is the longer of two times: its model FLOPs at the best matrix product of that dtype, and its arguments and
results, each moved once, at the speed of the copy.  No version of the code is much faster.
"""

from motif_jax.bench.ceilings import ceilings

HEAD = (f"{'median':>10}{'quartiles':>19}{'TFLOP/s':>9}{'executed':>9}{'of peak':>8}{'floor':>10}{'of floor':>9}{'plan GB':>9}"
        f"{'peak GB':>9}{'compile':>9}")


def lines(entries: list[dict], known: list[dict]) -> list[str]:
  """The table of `entries`; ceilings are taken from `known`, the entries of the same device."""
  best = ceilings(known)
  width = max([len(entry["name"]) for entry in entries], default=0)
  said = ["case".ljust(width) + HEAD] + [entry["name"].ljust(width) + _figures(entry, best) for entry in entries]
  if best:
    rates = ", ".join(f"{kind} {_number(rate / 1e12)} T{'B' if kind == 'copy' else 'FLOP'}/s" for kind, rate in best.items())
    return said + [f"ceilings measured here: {rates}"]
  return said + ["no ceilings measured here yet, so no shares and no floors: --only ceilings"]


def floor(entry: dict, best: dict[str, float]) -> float | None:
  """Seconds that no version of the case gets under, by the ceilings `best`; None where one is missing."""
  if entry["dtype"] not in best or "copy" not in best:
    return None
  return max(entry["model_flops"] / best[entry["dtype"]], (entry["argument_bytes"] + entry["output_bytes"]) / best["copy"])


def _figures(entry, best):
  if entry["status"] != "ok":
    return f"  {entry['reason'][:120]}"
  if "errors" in entry:
    return f"  right: the largest error is {max(entry['errors'].values()):.2g}, the limit {entry['limit']:g}"
  if "argument_bytes" not in entry and "seconds" in entry:
    s, how = entry["seconds"], ", ".join(f"{key} {entry[key]}" for key in ("attention", "compiled", "checkpointed", "torch"))
    return f"{time_of(s['median']):>10}{time_of(s['low']):>9}-{time_of(s['high']):>9}  {how}"
  if "seconds" not in entry:
    return f"  lowered in {time_of(entry['lower_s'])}, compiled in {time_of(entry['compile_s'])}" + (
        f", from the cache in {time_of(entry['cached_s'])}" if "cached_s" in entry else "") + (
        f"; the plan has {entry['planned_bytes'] / 1e9:.3g} GB")
  seconds = entry["seconds"]
  rate = lambda work: _number(work / seconds["median"] / 1e12) if work else "-"
  least, peak = floor(entry, best), best.get(entry["dtype"])
  share = f"{entry['executed_flops'] / seconds['median'] / peak:.0%}" if peak and entry["executed_flops"] else "-"
  near = f"{least / seconds['median']:.0%}" if least else "-"
  memory = lambda key: f"{entry[key] / 1e9:.3g}" if key in entry else "-"
  return (f"{time_of(seconds['median']):>10}{time_of(seconds['low']):>9}-{time_of(seconds['high']):>9}"
          f"{rate(entry['model_flops']):>9}{rate(entry['executed_flops']):>9}{share:>8}{time_of(least) if least else '-':>10}"
          f"{near:>9}{memory('planned_bytes'):>9}{memory('peak_bytes'):>9}{time_of(entry['compile_s']):>9}")


def time_of(seconds: float) -> str:
  """Seconds for people."""
  unit = next((u for u in ((1, "s"), (1e-3, "ms")) if seconds >= u[0]), (1e-6, "us"))
  return f"{_number(seconds / unit[0])} {unit[1]}"


def _number(value):
  return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
