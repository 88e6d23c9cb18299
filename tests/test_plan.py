"""The static plan, without a model."""

import dataclasses

import pytest

from motif_jax.config import Depths
from motif_jax.model.plan import Segment, make_plan

DEPTHS = Depths(dual=12, single=16, decoder=8)


def covered(plan):
  return [(s.kind, i) for s in plan for i in range(s.start, s.stop)]


@pytest.mark.parametrize("route", [None, (0, 1), (2, 26), (3, 12), (12, 28), (0, 28)])
@pytest.mark.parametrize("tap", [None, 1, 8, 12, 20, 28])
def test_every_block_is_covered_once_in_order(route, tap):
  expected = [(kind, i) for kind, depth in (("dual", 12), ("single", 16), ("decoder", 8)) for i in range(depth)]
  assert covered(make_plan(DEPTHS, route, tap)) == expected


def test_the_route_may_cross_the_dual_single_border():
  assert make_plan(DEPTHS, (3, 24), 8) == (
      Segment("dual", 0, 3), Segment("dual", 3, 8, routed=True, tap=True), Segment("dual", 8, 12, routed=True),
      Segment("single", 0, 12, routed=True), Segment("single", 12, 16, final=True),
      Segment("decoder", 0, 8, final=True))


def test_a_tap_at_the_end_of_a_route_is_inside_it():
  tapped = [s for s in make_plan(DEPTHS, (2, 8), 8) if s.tap]
  assert tapped == [Segment("dual", 2, 8, routed=True, tap=True)]


def test_parts_of_depth_zero_are_left_out():
  assert make_plan(Depths(0, 3, 0), None, 2) == (
      Segment("single", 0, 2, tap=True), Segment("single", 2, 3, final=True))


@pytest.mark.parametrize("route, tap", [((26, 30), None), ((5, 5), None), ((-1, 3), None), (None, 29), (None, 0)])
def test_what_reaches_into_the_decoder_is_refused(route, tap):
  with pytest.raises(ValueError, match="must lie in"):
    make_plan(DEPTHS, route, tap)


def test_a_kind_of_block_that_the_plan_forgets_is_an_error():
  deeper = dataclasses.make_dataclass("Deeper", [("refine", int)], bases=(Depths,), frozen=True)
  assert make_plan(deeper(2, 2, 1, 0)) == make_plan(Depths(2, 2, 1))
  with pytest.raises(AssertionError, match="stands nowhere"):
    make_plan(deeper(2, 2, 1, 3))
