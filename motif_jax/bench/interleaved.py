"""What calls cost beside each other on a machine that others use too.

In turn, so that a busy minute hits all alike, and in CPU seconds, so that waiting for a core does not count.
"""

from collections.abc import Mapping
import time

import jax

from motif_jax.bench import measure
from motif_jax.bench.case import Prepared


def seconds(cases: Mapping[str, Prepared], *, rounds: int) -> dict[str, list[float]]:
  """Name -> CPU seconds of this process, all threads together, for a call in each of `rounds`; a round calls each case once."""
  calls = {name: measure.caller(measure.compile_(case)[0], case) for name, case in cases.items()}
  for call in calls.values():  # the first call loads and allocates
    jax.block_until_ready(call())
  found = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      began = time.process_time()
      jax.block_until_ready(call())
      found[name].append(time.process_time() - began)
  return found
