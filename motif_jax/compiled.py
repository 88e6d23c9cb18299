"""What the compiler made of a step: its collectives, its matrix products, its memory; read from the compiled module.

    executable = make_train_step(...).jitted.lower(state, batch, key).compile()
    collectives(executable.as_text()), matmul_flops(executable.as_text()), memory(executable)

The text is XLA's HLO after partitioning, so every shape in it is what one device holds.  A scan is a while loop whose body
stands in the text once: counts are multiplied through trip counts (XLA's own cost analysis counts a body once).  On CPU a
gradient that ends up sharded is an all-reduce and a slice, where a GPU has a reduce-scatter, and bfloat16 travels as float32.
"""

import collections
import functools
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# What holds no memory of its own: it names, or hands on, what another instruction made.
ALIASES = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "optimization-barrier")


class Collective(NamedTuple):
  """`count` times in a step, groups of `group` devices exchange arrays of `bytes`."""

  kind: str  # one of COLLECTIVES
  bytes: int  # one time, on one device, the larger side: the result of a gather, the operand of the others
  count: int
  group: int  # devices that take part together; 2 for a permute: one sends to one

  @property
  def sent(self) -> float:
    """Bytes that a device sends in a step, by the ring algorithms: an all-reduce is a reduce-scatter and an all-gather."""
    rounds = {"all-reduce": 2, "collective-permute": self.group / (self.group - 1)}.get(self.kind, 1) if self.group > 1 else 0
    return rounds * self.bytes * self.count * (self.group - 1) / self.group


class Buffer(NamedTuple):
  """A result that the module materialises."""

  bytes: int
  shape: str  # "f32[2,16]"
  op: str  # the HLO instruction: "dot", "fusion", ...
  source: str  # where in our code it comes from: the path of named scopes


class Overlap(NamedTuple):
  """An asynchronous collective, in a module whose text has the order in which a device begins its instructions."""

  collective: Collective
  flops: int  # of the matrix products that begin after it has and before it has ended, each time
  source: str  # where in our code it comes from


class Memory(NamedTuple):
  """Bytes on one device.  Donated arguments are outputs too and count once."""

  arguments: int
  outputs: int
  aliased: int  # of the outputs: lie where a donated argument lay
  temporary: int

  @property
  def total(self) -> int:
    return self.arguments + self.outputs - self.aliased + self.temporary


class Instruction(NamedTuple):
  name: str
  type: str
  op: str
  operands: tuple[str, ...]
  attributes: str  # what stands after the operands


def memory(executable) -> Memory:
  """The memory of a compiled function on one device, as XLA has planned it."""
  stats = executable.memory_analysis()
  return Memory(stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes, stats.temp_size_in_bytes)


def collectives(text: str) -> list[Collective]:
  """The collectives of a compiled module, equal ones counted together, what sends most first.

  ValueError if one stands in a loop whose trip count the compiler does not know.
  """
  module, counts = parse(text), trip_counts(text)
  devices, found = _devices(text), collections.Counter()
  for computation, instructions in module.items():
    types = {i.name: i.type for i in instructions}
    for i in instructions:
      kind = i.op.removesuffix("-start")
      if kind in COLLECTIVES:
        found[kind, *_size_and_group(i, types, devices)] += _known(counts[computation], i)
  merged = [Collective(kind, size, count, group) for (kind, size, group), count in found.items() if count]
  return sorted(merged, key=lambda c: -c.sent)


def overlaps(text: str) -> list[Overlap]:
  """The asynchronous collectives of a scheduled module, as XLA for GPUs makes it, what sends most first.

  What starts and ends with nothing in between hides behind nothing; nor does a collective that is not in this list.
  """
  module, counts = parse(text), trip_counts(text)
  devices, found = _devices(text), []

  @functools.cache
  def work(computation):
    types = {i.name: i.type for i in module[computation]}
    return sum(of_instruction(i, types) for i in module[computation])

  def of_instruction(i, types):
    return product_flops(i, types) or (_trips(i) if i.op == "while" else 1) * sum(map(work, called(i)))

  for computation, instructions in module.items():
    types, places = {i.name: i.type for i in instructions}, {i.name: place for place, i in enumerate(instructions)}
    for end in instructions:
      kind = end.op.removesuffix("-done")
      if kind in COLLECTIVES and kind != end.op:
        begin = instructions[places[end.operands[0]]]
        between = instructions[places[begin.name] + 1:places[end.name]]
        size, group = _size_and_group(begin, types, devices)
        collective = Collective(kind, size, _known(counts[computation], begin), group)
        found.append(Overlap(collective, sum(of_instruction(i, types) for i in between), source_of(begin.attributes)))
  return sorted(found, key=lambda o: -o.collective.sent)


def matmul_flops(text: str) -> int:
  """FLOPs of the matrix products that one device executes: 2 m n k for each, through all loops."""
  module, counts = parse(text), trip_counts(text)
  total = 0
  for computation, instructions in module.items():
    types = {i.name: i.type for i in instructions}
    for i in instructions:
      if flops := product_flops(i, types):
        total += flops * _known(counts[computation], i)
  return total


def product_flops(i: Instruction, types: dict[str, str]) -> int:
  """FLOPs of one matrix product, 2 m n k; 0 for any other instruction.  `types`: of the instructions of its computation.

  A dot, or on GPUs a call of cuBLAS, whose dimensions stand in its backend_config and whose result is a tuple with a workspace;
  or of cuDNN's attention, which is two products forward and five backward, of all keys, padding or not.
  """
  if i.op == "custom-call" and "__cudnn$fmha" in i.attributes:
    queries, keys = dims_of(types[i.operands[0]]), dims_of(types[i.operands[1]])  # (B, L, N, D), (B, S, N, D)
    return 2 * (5 if "Backward" in i.attributes else 2) * math.prod(queries) * keys[1]
  found = re.search(r"lhs_contracting_dim(?:s=\{|ensions\":\[)([\d,\"]*)", i.attributes)
  if not found or i.op != "dot" and "__cublas" not in i.attributes:
    return 0
  left = dims_of(types[i.operands[0]])
  inner = math.prod(left[d] for d in _ints(found.group(1).replace('"', "")))
  return 2 * math.prod(dims_of(i.type)) * inner


def largest_buffers(text: str, count: int = 10) -> list[Buffer]:
  """The largest results that a device materialises, one for each shape and place in our code; inside fusions nothing is."""
  module = parse(text)
  fused = {name for instructions in module.values() for i in instructions if i.op not in ("while", "call", "conditional")
           for name in called(i)}
  found = {Buffer(bytes_of(i.type), re.sub(r"\{[^}]*\}", "", i.type), i.op, source_of(i.attributes))
           for computation, instructions in module.items() if computation not in fused
           for i in instructions if i.op not in ALIASES and not i.op.endswith("-done")}
  return sorted(found, reverse=True)[:count]


def trip_counts(text: str) -> dict[str, float]:
  """How often a step runs each computation of a module; nan where a loop around it has no known trip count."""
  module = parse(text)
  counts = dict.fromkeys(module, 0)
  counts[list(module)[-1]] = 1  # the entry; the text has what is called before what calls it
  for computation in reversed(module):
    for i in module[computation]:
      times = _trips(i) if i.op == "while" else 1
      for name in called(i):
        counts[name] += counts[computation] * times
  return counts


@functools.lru_cache(maxsize=2)  # several questions are asked of one module, whose text may have 10 MB
def parse(text: str) -> dict[str, list[Instruction]]:
  """The instructions of each computation of a module in HLO text, in the order of the text: the entry is the last."""
  module, current = {}, None
  for line in text.splitlines():
    if line.startswith(("%", "ENTRY")) and line.endswith("{"):
      name = line.removeprefix("ENTRY ").split(" ", 1)[0]
      current = module.setdefault(name, [])
    elif line.startswith("  ") and " = " in line:
      current.append(_instruction(line.strip()))
  if not module:
    raise ValueError("The text holds no HLO computation; expected the as_text() of a compiled function.")
  return module


def called(i: Instruction) -> list[str]:
  """The computations that an instruction runs; a -done repeats what its -start has named."""
  if i.op.endswith(("-done", "-update")):
    return []
  one = re.findall(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=(%[\w.\-]+)", i.attributes)
  return one + [n for names in re.findall(r"branch_computations=\{([^}]*)\}", i.attributes) for n in names.split(", ")]


def source_of(attributes: str) -> str:
  """The path of named scopes, and the primitive, that an instruction comes from; empty where the compiler made it."""
  found = re.search(r'op_name="([^"]*)"', attributes)
  return found.group(1) if found else ""


def bytes_of(type_text: str) -> int:
  """Bytes of a type such as "f32[2,16]{1,0}" or of a tuple of types."""
  total = 0
  for name, dims in re.findall(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]", type_text):
    bits = re.search(r"\d+", name)  # f32, bf16, s4, f8e4m3fn, c64
    total += math.ceil(math.prod(_ints(dims)) * (int(bits.group()) if bits else 8) / 8) if name != "token" else 0  # pred: a byte
  return total


def dims_of(type_text: str) -> list[int]:
  """The dimensions of the type of one array."""
  return _ints(re.search(r"\[([\d,]*)\]", type_text).group(1))


def _ints(text):
  return [int(d) for d in text.split(",") if d]


def _instruction(line):
  name, rest = line.removeprefix("ROOT ").split(" = ", 1)
  end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
  kind, _, rest_of_line = rest[end:].strip().partition("(")
  close = _closing("(" + rest_of_line) - 1
  return Instruction(name, rest[:end], kind, tuple(re.findall(r"%[\w.\-]+", rest_of_line[:close])), rest_of_line[close + 1:])


def _closing(text):
  """Where the bracket closes that `text` opens with."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return i
  raise ValueError(f"unbalanced brackets in HLO text: {text[:80]}")


def _trips(i):
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.attributes)
  return int(known.group(1)) if known else math.nan


def _devices(text):
  return math.prod(int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0]))


def _size_and_group(i, types, devices):
  """(bytes, group), as a `Collective` has them, of a collective or its start."""
  kind = i.op.removesuffix("-start")
  group = 2 if kind == "collective-permute" else _group_size(i.attributes, devices)
  return sum(bytes_of(types[operand]) for operand in i.operands) * (group if kind == "all-gather" else 1), group


def _known(count, i):
  if math.isnan(count):
    raise ValueError(f"{i.op} {i.name} stands in a loop whose trip count the compiler does not know, so it cannot be counted; "
                     "write the loop as lax.scan, or fori_loop with Python ints.")
  return count


def _group_size(attributes, devices):
  """Devices per group: {{0,1},{2,3}}, [2,4]<=[8] (groups x devices), or mesh['x'=2,'y'=4] ... {'y'}; {} means all."""
  if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
    return math.prod(_axis_size(axis, sizes) for axis in re.findall(r"'\w+'(?::\(\d+\)\d+)?", named.group(2)))
  if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
    return int(iota.group(2))
  first = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
  return len(first.group(1).split(",")) if first else devices


def _axis_size(axis, sizes):
  """Of 'name', or of a part of it: 'name':(before)size."""
  name, _, part = axis.partition(":")
  return int(part.partition(")")[2]) if part else int(sizes[name.strip("'")])
