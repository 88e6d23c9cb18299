"""model.attention = "auto": the backend that `launch.bench` measured as the fastest on this device, and never a guess.

It is replaced by that backend's name before the config is read, so nothing below `launch/` knows of it, checkpoints say what ran,
and a command that does not measure (a plan) answers "auto" with the names there are.
"""

import pathlib

import jax

from motif_jax.bench.results import Results


def resolve(c, results: str | pathlib.Path) -> str | None:
  """What to tell the user, after "auto" in the ConfigDict `c` became the fastest backend of the file `results`; else None."""
  if c.model.attention != "auto":
    return None
  device, version = jax.devices()[0].device_kind, jax.__version__
  found = measured(Results(results).entries, device=device, version=version, dtype=c.model.dtype,
                   head_dim=c.model.width // c.model.heads)
  if not found:
    raise ValueError(f"model.attention is 'auto', but {results} has no attention measured on {device!r} with jax {version}, "
                     f"{c.model.dtype} and heads of {c.model.width // c.model.heads}; run: python -m launch.bench "
                     f"--only=attention --output={results}, or name a backend.")
  best = min(found, key=found.get)
  c.model.attention = best
  others = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in sorted(found.items(), key=lambda item: item[1]))
  return f"model.attention: auto is {best!r} here, by {results} ({others})"


def measured(entries: list[dict], *, device: str, version: str, dtype: str, head_dim: int) -> dict[str, float]:
  """Backend -> seconds of forward and backward, with padding, at the longest length that any has done."""
  found: dict[int, dict[tuple[str, int], float]] = {}
  for entry in entries:
    group, *rest = entry["name"].split("/")
    if group != "attention" or rest[3:] != ["padded", "forward+backward"] or entry["status"] != "ok":
      continue
    settings = entry["settings"]
    if (entry["device"], entry["jax"], settings["dtype"], settings["head_dim"]) == (device, version, dtype, head_dim):
      found.setdefault(settings["length"], {})[rest[0], settings["heads"]] = entry["seconds"]["median"]
  if not found:
    return {}
  longest = found[max(found)]
  heads = max(count for _, count in longest)  # groups of heads are measured too
  return {backend: seconds for (backend, count), seconds in longest.items() if count == heads}
