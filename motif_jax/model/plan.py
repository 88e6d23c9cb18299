"""The static plan of a forward pass: which blocks run, on which tokens, and where features are tapped.

Decided in Python from depths, route and tap, so it costs nothing at run time, can be printed, and is tested without a model.
"""

import dataclasses
from typing import NamedTuple

from motif_jax.config import Depths


class Segment(NamedTuple):
  """Blocks [start, stop) of one kind; `routed`: on the kept video tokens only; `tap`: features are tapped after the last.

  `final`: of what the last block gives only the first segment of tokens is read: nobody reads the context after the encoder
  stage, nor the encoder's tokens after the decoder.  What nobody reads is not computed (`stack.run_span`).
  """

  kind: str
  start: int
  stop: int
  routed: bool = False
  tap: bool = False
  final: bool = False

  def __str__(self):
    marks = (", kept tokens" if self.routed else "") + (", tap" if self.tap else "") + (", final" if self.final else "")
    return f"{self.kind} [{self.start}, {self.stop}){marks}"


def make_plan(depths: Depths, route: tuple[int, int] | None = None, tap: int | None = None) -> tuple[Segment, ...]:
  """Half-open segments that cover each block once, in order.

  `route` is [start, stop) and `tap` a number of blocks, both counted over dual then single blocks (the encoder stage).  The
  decoder is never routed (paper section on token routing; model.md section 4).
  """
  encoder = depths.dual + depths.single
  if route is not None and not 0 <= route[0] < route[1] <= encoder:
    raise ValueError(f"The route [{route[0]}, {route[1]}) must lie in [0, {encoder}): the decoder always sees every token.")
  if tap is not None and not 1 <= tap <= encoder:
    raise ValueError(f"The tap {tap} must lie in 1 ... {encoder}: after that many dual and single blocks.")
  cuts = sorted({0, depths.dual, encoder, *(route or ()), *((tap,) if tap else ())})
  segments = []
  for start, stop in zip(cuts, cuts[1:]):
    kind, first = ("dual", 0) if start < depths.dual else ("single", depths.dual)
    routed = route is not None and route[0] <= start < route[1]
    segments.append(Segment(kind, start - first, stop - first, routed, tap == stop, stop == encoder))
  if depths.decoder:
    segments.append(Segment("decoder", 0, depths.decoder, final=True))
  planned = sum(segment.stop - segment.start for segment in segments)
  assert planned == sum(dataclasses.astuple(depths)), f"{depths}, but the plan has {planned} blocks: a kind stands nowhere in it."
  return tuple(segments)
