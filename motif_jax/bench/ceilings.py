"""What the device reaches at best, in large matrix products and in moving memory: all other figures are held against it."""

import jax
import jax.numpy as jnp

from motif_jax.bench.case import Case, Job, Prepared, normals, sets_of

# Name -> (dtype, precision).  By default a GPU multiplies float32 in TF32.
PRODUCTS = {"bfloat16": ("bfloat16", None), "float32": ("float32", None), "float32 highest": ("float32", "highest")}


def cases(job: Job) -> list[Case]:
  """Matrix products of each size and kind, then a copy."""
  return [_matmul(name, n) for n in job.sizes.matmuls for name in PRODUCTS] + [_copy(job.sizes.copy)]


def _matmul(name, n):
  dtype, precision = PRODUCTS[name]

  def prepare():
    function = jax.jit(lambda x, y: jnp.matmul(x, y, precision=precision))
    count = sets_of(2 * n * n * jnp.dtype(dtype).itemsize)
    return Prepared(function, [tuple(normals(i, (n, n), (n, n), dtype=dtype)) for i in range(count)])

  return Case(f"ceilings/matmul {name}/{n}", {"n": n, "dtype": dtype, "precision": precision or "default"}, prepare,
              model=2.0 * n**3, executed=2.0 * n**3, dtype=dtype)


def _copy(size):
  # A change of sign: a plain copy the compiler may leave out.
  prepare = lambda: Prepared(jax.jit(jnp.negative), [(x,) for x in normals(0, *[(size // 4,)] * 2)])
  return Case("ceilings/copy", {"bytes": size}, prepare)


def ceilings(entries: list[dict]) -> dict[str, float]:
  """The best of `entries` by kind: FLOP/s of products by dtype, bytes/s of "copy"; what was not measured is left out."""
  best: dict[str, float] = {}
  for entry in entries:
    _, _, what = entry["name"].partition("ceilings/")
    if what and entry["status"] == "ok":
      kind = what.partition("/")[0].removeprefix("matmul ")
      work = entry["argument_bytes"] + entry["output_bytes"] if kind == "copy" else entry["executed_flops"]
      best[kind] = max(best.get(kind, 0.0), work / entry["seconds"]["median"])
  return best
