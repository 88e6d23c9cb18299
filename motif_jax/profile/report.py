"""What a trace says about a program: time by scope, kind and instruction, communication, idle gaps.

Times of a scope are *own* times of threads or streams: an event less the events inside it, so that nothing counts twice and the
tree adds up to its root.  Where several threads or streams work at once they add up to more than the time on the clock; busy and
idle time, communication and gaps are therefore measured on the clock, per device.  All figures are means per step and device.
"""

import bisect
import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from motif_jax.profile import spans
from motif_jax.profile.scopes import Origin
from motif_jax.profile.trace import Op

SENDING = ("communication", "host transfer")
NAMELESS = ("(kernels without a name)",)
GAPS = 5  # told one by one
KNOWN = 0.5  # of the time must be the program's, or the trace is of another one


class Work(NamedTuple):
  """What was done, and how long it took."""

  ms: float = 0.0
  count: float = 0.0  # kernels or instructions
  flops: float = 0.0  # of matrix products, where known

  def plus(self, other: "Work") -> "Work":
    return Work(*(a + b for a, b in zip(self, other)))


@dataclasses.dataclass
class Node:
  """A scope."""

  name: str
  own: Work  # not inside a scope of `children`
  middle_ms: float  # when half of it has run for the first time: it puts scopes into the order of the model
  children: list["Node"]  # in order of it

  @property
  def work(self) -> Work:
    """All that is in it."""
    return functools.reduce(Work.plus, (child.work for child in self.children), self.own)


class Row(NamedTuple):
  """An instruction, or a kind of them."""

  name: str
  op: str
  kind: str
  scope: str
  work: Work
  longest_ms: float  # of a single run


class Idle(NamedTuple):
  """A gap in which a device ran nothing; `ms` is of this one gap."""

  ms: float
  device: str
  after: str  # what ended last
  before: str  # what began next


@dataclasses.dataclass
class Report:
  """A trace in figures: means per step and device unless they say otherwise."""

  steps: int
  devices: int
  wall_ms: float  # from the first event to the last, by the number of steps
  busy_ms: float  # on the clock, something runs
  tree: Node  # own times of threads or streams
  kinds: list[Row]
  instructions: list[Row]  # most time first
  sending_ms: float  # on the clock
  exposed_ms: float  # of it, nothing else runs
  sending: list[Row]
  gaps: list[Idle]
  gap_count: float
  inferred_ms: float  # its scope is only inferred
  nameless_ms: float  # the trace does not say which instruction


class _Placed(NamedTuple):
  """An event with its own time and what it is."""

  op: Op
  own: float  # ns
  name: str
  origin: Origin


def make_report(ops: Sequence[Op], origins: dict[str, Origin], *, module: str, steps: int, root: str) -> Report:
  """The `Report` of all that ran in `steps` steps of `module`, whose instructions are `origins`.

  ValueError if the trace is of another program.
  """
  if not ops:
    raise ValueError("The trace holds no kernel and no HLO instruction: nothing ran while it was taken, or, on an NVIDIA GPU, "
                     "the driver keeps its records (CUPTI) from this user.")
  placed = _placed(ops, origins, module)
  devices = _grouped(placed, lambda p: p.op.device)
  each = 1e6 * steps * len(devices)  # ns of all -> ms of one
  sending, exposed, busy, gaps = [], [], 0.0, []
  for device, found in devices.items():
    work = [p for p in found if p.origin.kind != "control"]  # a loop is no work: it holds some
    sent = [p.op.stretch for p in work if p.origin.kind in SENDING]
    sending += spans.union(sent)
    exposed += spans.outside(sent, [p.op.stretch for p in work if p.origin.kind not in SENDING])
    busy += spans.length(p.op.stretch for p in work)
    gaps += [Idle(gap.length / 1e6, device, _told(work[gap.before]), _told(work[gap.after]))
             for gap in spans.gaps([p.op.stretch for p in work])]
  total = lambda stretches: sum(stop - start for start, stop in stretches) / each
  wall = sum(max(p.op.stop for p in found) - min(p.op.start for p in found) for found in devices.values())
  rows = _rows(placed, lambda p: (p.name, p.origin.op, p.origin.kind, " > ".join(p.origin.scope)), each)
  return Report(
      steps=steps, devices=len(devices), wall_ms=wall / each, busy_ms=busy / each, tree=_tree(placed, root, each),
      kinds=_rows(placed, lambda p: (p.origin.kind, "", p.origin.kind, ""), each), instructions=rows,
      sending_ms=total(sending), exposed_ms=total(exposed), sending=[row for row in rows if row.kind in SENDING],
      gaps=sorted(gaps, reverse=True)[:GAPS], gap_count=len(gaps) / (steps * len(devices)),
      inferred_ms=sum(p.own for p in placed if p.origin.inferred) / each,
      nameless_ms=sum(p.own for p in placed if p.origin.scope == NAMELESS) / each)


def from_json(content: dict) -> Report:
  """The `Report` that JSON holds as `dataclasses.asdict` of it."""
  node = lambda c: Node(c["name"], Work(*c["own"]), c["middle_ms"], [node(child) for child in c["children"]])
  row = lambda r: Row(*r[:4], Work(*r[4]), r[5])
  rows = {name: list(map(row, content[name])) for name in ("kinds", "instructions", "sending")}
  return Report(**{**content, **rows, "tree": node(content["tree"]), "gaps": [Idle(*gap) for gap in content["gaps"]]})


def _placed(ops, origins, module) -> list[_Placed]:
  """Each event with its own time and origin, in order of time."""
  lanes = _grouped(range(len(ops)), lambda i: (ops[i].device, ops[i].lane))
  own = {i: time for found in lanes.values() for i, time in zip(found, spans.own_times([ops[i].stretch for i in found]))}
  # XLA calls its own kernels after their instruction, with _ for what C does not allow in a name.
  kernels = {re.sub(r"\W", "_", name): name for name in origins}
  placed, strange = [], 0.0
  for i, op in enumerate(ops):
    name = op.name or kernels.get(op.kernel, "")
    ours = op.module in ("", module)
    if ours and name in origins:
      origin = origins[name]
    else:
      scope = NAMELESS if ours and not name else (f"(another program: {op.module})",)
      strange += own[i] if scope != NAMELESS else 0
      origin = Origin(scope, False, "element-wise and the rest", "", 0)
    placed.append(_Placed(op, own[i], name or op.kernel, origin._replace(kind=_kind(op, origin))))
  if strange > (1 - KNOWN) * sum(own.values()):
    ran = collections.Counter(op.module for op in ops).most_common(1)[0][0]
    raise ValueError(f"{strange / sum(own.values()):.0%} of the time in the trace is of another program: it ran {ran}, and most "
                     f"of that is not in the compiled module beside it, {module}.  Take the trace again.")
  return placed


def _kind(op, origin):
  if re.search(r"^nccl", op.kernel):
    return "communication"
  if re.search(r"^Memcpy(H2D|D2H|P2P)", op.kernel):
    return "host transfer"
  return origin.kind


def _tree(placed: Iterable[_Placed], root: str, each: float) -> Node:
  groups, firsts = _grouped(placed, lambda p: p.origin.scope), {}
  for p in placed:
    firsts.setdefault(p.name, p.op.start / 1e6)

  def node(name, scope):
    inside = {other: found for other, found in groups.items() if other[:len(scope)] == scope}
    names = dict.fromkeys(other[len(scope)] for other in inside if len(other) > len(scope))
    children = sorted((node(name, (*scope, name)) for name in names), key=lambda child: child.middle_ms)
    moments = sorted((firsts[p.name], p.own) for found in inside.values() for p in found)
    passed = list(itertools.accumulate(own for _, own in moments))
    return Node(name, _work(groups.get(scope, []), each), moments[bisect.bisect_left(passed, passed[-1] / 2)][0], children)

  return node(root, ())


def _rows(placed, key, each) -> list[Row]:
  """A row for each key, most time first."""
  rows = [Row(*name, _work(found, each), max(p.own for p in found) / 1e6) for name, found in _grouped(placed, key).items()]
  return sorted(rows, key=lambda row: -row.work.ms)


def _work(placed, each) -> Work:
  return Work(sum(p.own for p in placed) / each, len(placed) * 1e6 / each, sum(p.origin.flops for p in placed) * 1e6 / each)


def _told(p: _Placed) -> str:
  return f"{p.name} in {' > '.join(p.origin.scope) or 'no scope'}"


def _grouped(items, key) -> dict:
  groups = collections.defaultdict(list)
  for item in items:
    groups[key(item)].append(item)
  return dict(groups)
