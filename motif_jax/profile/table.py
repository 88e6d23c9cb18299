"""A report as lines of text, for people without a browser."""

from typing import NamedTuple

from motif_jax.profile.report import Node, Report, Row, Work

PHASES = ("forward", "recompute", "backward")  # columns: a part of the model runs in each of them
WIDTH = 34  # of names
NUMBERS = f"{'ms':>10}{'share':>8}{'ops':>8}{'FLOP':>9}{'FLOP/s':>9}"


class Part(NamedTuple):
  """A part of the model, whatever phase it runs in."""

  name: str
  own: Work
  phases: tuple[float, ...]  # ms in each of PHASES, of all that is in it
  work: Work
  children: list["Part"]


def lines(report: Report, run: dict, *, share: float, top: int) -> list[str]:
  """The report; scopes below `share` of the time are summed up, and `top` instructions are listed."""
  parts = (_head(report, run), _scopes(report, share), _kinds(report), _instructions(report, top), _sending(report),
           _gaps(report), _memory(run))
  return [line for part in parts for line in (*part, "")][:-1]


def _head(report, run) -> list[str]:
  first, stop = run["steps"]
  alone, work = run["seconds_without_trace"], report.tree.work
  ratio, idle = work.ms / report.busy_ms, report.wall_ms - report.busy_ms
  return [
      f"{report.tree.name} of {run['config']} on {run['devices']} x {run['device']}, jax {run['jax']}, commit {run['commit']}",
      *(f"  {key}: {value}" for key, value in run["facts"].items()),
      f"steps {first}:{stop} traced: {_ms(1e3 * run['seconds'])} a step"
      + (f", {_ms(1e3 * alone)} without a trace" if alone else "") + "; from here on means per step and device",
      f"  from the first event to the last {_ms(report.wall_ms)}: busy {_ms(report.busy_ms)}, idle {_ms(idle)} "
      f"({idle / report.wall_ms:.1%}), communication that nothing hides {_ms(report.exposed_ms)} "
      f"({report.exposed_ms / report.wall_ms:.1%})",
      f"  own times of {'threads' if run['platform'] == 'cpu' else 'streams'} add up to {_ms(work.ms)}, {ratio:.2f} times the "
      "busy time" + (": more than one works at once" if ratio > 1.005 else ""),
      f"  matrix products {_count(work.flops)}FLOP a step, {_count(1e3 * work.flops / report.wall_ms)}FLOP/s",
  ]


def _scopes(report, share) -> list[str]:
  whole, root = report.tree.work.ms, by_part(report.tree)
  ran = [i for i, ms in enumerate(root.phases) if ms]
  out = [f"{'time by scope, in order of time':<{WIDTH}}" + "".join(f"{PHASES[i]:>11}" for i in ran) + NUMBERS]

  def add(part: Part, depth: int):
    out.append(line(part.name, depth, part.work, part.phases))
    large = [child for child in part.children if child.work.ms >= share * whole]
    for child in large:
      add(child, depth + 1)
    small = [child for child in part.children if child.work.ms < share * whole]
    if large and small and (rest := _merged(f"({len(small)} smaller)", small)).work.ms > 0:
      out.append(line(rest.name, depth + 1, rest.work, rest.phases))
    if large and part.own.ms >= share * whole:
      inside = [sum(times) for times in zip(*(child.phases for child in part.children))]
      out.append(line("(itself)", depth + 1, part.own, [a - b for a, b in zip(part.phases, inside)]))

  line = lambda name, depth, work, phases: _line(name, depth, work, whole, [phases[i] for i in ran])
  add(root, 0)
  notes = [f"below {share:.1%} summed up"]
  if report.inferred_ms > 0.001 * whole:
    notes.append(f"{report.inferred_ms / whole:.1%} is of instructions that the compiler made, mostly copies, counted where "
                 "their input comes from")
  if report.nameless_ms > 0.001 * whole:
    notes.append(f"{report.nameless_ms / whole:.1%} is of kernels that the trace does not name")
  return out + ["  " + "; ".join(notes)]


def by_part(tree: Node) -> Part:
  """`tree` with the phases folded: a part of the model stands once, with its time in each phase."""
  of_phases = [(PHASES.index(node.name), child) for node in tree.children if node.name in PHASES for child in node.children]
  of_phases += [(i, Node("(no part of the model)", node.own, node.middle_ms, [])) for node in tree.children if node.name in PHASES
                for i in [PHASES.index(node.name)] if node.own.ms]
  others = [(None, node) for node in tree.children if node.name not in PHASES]
  return _merged(tree.name, _parts([*of_phases, *others]), tree.own)


def _parts(nodes) -> list[Part]:
  """Parts of (phase or None, node) pairs, those of one name together, in the order of the model."""
  names = dict.fromkeys(node.name for _, node in sorted(nodes, key=lambda pair: (pair[0] or 0, pair[1].middle_ms)))
  made = []
  for name in names:
    same = [(phase, node) for phase, node in nodes if node.name == name]
    own = Work()
    for _, node in same:
      own = own.plus(node.own)
    part = _merged(name, _parts([(phase, child) for phase, node in same for child in node.children]), own)
    made.append(part._replace(phases=tuple(sum(n.work.ms for p, n in same if p == i) for i in range(len(PHASES)))))
  return made


def _merged(name: str, parts: list[Part], own: Work = Work()) -> Part:
  work = own
  for part in parts:
    work = work.plus(part.work)
  return Part(name, own, tuple(sum(part.phases[i] for part in parts) for i in range(len(PHASES))), work, parts)


def _line(name, depth, work: Work, whole, phases=()) -> str:
  columns = "".join(f"{ms:>11.3f}" if ms else f"{'':>11}" for ms in phases)
  rate = _count(1e3 * work.flops / work.ms) if work.flops and work.ms else ""
  return (f"{'  ' * depth + name:<{WIDTH}}{columns}{work.ms:>10.3f}{work.ms / whole:>8.1%}{work.count:>8.0f}"
          f"{_count(work.flops) if work.flops else '':>9}{rate:>9}").rstrip()


def _kinds(report) -> list[str]:
  own = {"control": "loops and calls themselves"}
  return [f"{'time by kind':<{WIDTH}}{NUMBERS}",
          *(_line(own.get(row.name, row.name), 1, row.work, report.tree.work.ms) for row in report.kinds)]


def _instructions(report, top) -> list[str]:
  return [f"{'the most time':<{WIDTH}}{NUMBERS}  longest  scope", *(_row(row, report) for row in report.instructions[:top])]


def _row(row: Row, report) -> str:
  name = row.name if len(row.name) <= WIDTH - 3 else row.name[:WIDTH - 6] + "..."
  return f"{_line(name, 1, row.work, report.tree.work.ms):<{WIDTH + len(NUMBERS)}}{_ms(row.longest_ms):>9}  {row.scope}"


def _sending(report) -> list[str]:
  if not report.sending:
    return ["communication: none"]
  share = lambda ms: f"{_ms(ms)} ({ms / report.wall_ms:.1%})"
  return [f"communication {share(report.sending_ms)}, of which nothing hides {share(report.exposed_ms)}: only it runs",
          *(_row(row, report) for row in report.sending[:8])]


def _gaps(report) -> list[str]:
  idle = report.wall_ms - report.busy_ms
  return [f"idle {_ms(idle)} ({idle / report.wall_ms:.1%}) in {report.gap_count:.0f} gaps a step; the longest of all steps",
          *(line for gap in report.gaps for line in (f"{_ms(gap.ms):>10} on {gap.device} after  {gap.after}",
                                                     f"{'before':>{20 + len(gap.device)}} {gap.before}"))]


def _memory(run) -> list[str]:
  planned = run["memory"]
  total = planned["arguments"] + planned["outputs"] - planned["aliased"] + planned["temporary"]
  peak = f"; the device's peak since the process began {_count(run['peak_bytes'])}B" if run["peak_bytes"] else ""
  return [f"memory of a device as the compiler planned it {_count(total)}B: arguments {_count(planned['arguments'])}B, outputs "
          f"beyond them {_count(planned['outputs'] - planned['aliased'])}B, temporary {_count(planned['temporary'])}B{peak}",
          "largest results",
          *(f"{_count(b['bytes']) + 'B':>10}  {b['shape'][:32]:<32}  {b['op']:<12}  {b['scope']}" for b in run["buffers"])]


def _ms(value: float) -> str:
  return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.4g} s"


def _count(value: float) -> str:
  """A number with its prefix, "1.5 G"."""
  unit = next((u for u in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= u[0]), (1, ""))
  return f"{value / unit[0]:.3g} {unit[1]}"
