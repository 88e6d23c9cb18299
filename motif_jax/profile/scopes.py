"""Where each instruction of a compiled module comes from: the part of the model, read from its HLO text.

XLA keeps for most instructions the path under which jax traced them: op_name="jit(step)/transpose(jvp(dual))/while/body/
closed_call/checkpoint/rematted_computation/DualBlock/attention/attend/dot_general".  A scope is what a reader wants of it:
("recompute", "dual", "attention", "attend").  The path is made by `jax.named_scope`, by the names of Flax modules, and by jax's
transformations, which wrap the scope that they were called in: jvp(...) is the forward pass, transpose(jvp(...)) the backward.
"""

import collections
import re
from typing import NamedTuple

from motif_jax import compiled

# What jax and XLA add to paths, and no reader asks for.
MACHINERY = {"while", "body", "cond", "scan", "closed_call", "eval_jaxpr", "checkpoint", "remat", "rematted_computation", "pjit",
             "shard_map", "custom_jvp_call", "custom_vjp_call", "core_call", "branch_0_fun", "branch_1_fun"}
ROOT = "jit("  # a path from the top; operators of reductions have only its end
COPYING = {"copy", "copy-start", "copy-done", "transpose", "bitcast", "fusion", "parameter"}
CONTROL = ("while", "call", "conditional")  # they hold other instructions, and do nothing themselves


class Origin(NamedTuple):
  """An instruction: where it comes from and what kind of work it is."""

  scope: tuple[str, ...]
  inferred: bool  # the compiler made it (most are copies) and names no source: the scope is that of what it reads
  kind: str  # "matrix product", "communication", "control", "copy", "custom call" or "element-wise and the rest"
  op: str  # "dot", "fusion", ...
  flops: int  # of its matrix products, each time it runs


def scope_of(op_name: str) -> tuple[str, ...]:
  """The scope that a path of op_name names, phase first: "forward", "backward" or "recompute", where the path has one."""
  # Of merged instructions, "a;b" or "common/(a:b)", the first one counts.
  first = re.sub(r"/\(([^:]*):.*\)$", r"/\1", op_name.partition(";")[0])
  *path, _ = first.split("/")  # the last part is the primitive
  scopes = [name for part in path if (name := _named(part))]
  phase = [name for name, mark in (("recompute", "rematted_computation"), ("backward", "transpose("), ("forward", "jvp("))
           if any(part.startswith(mark) for part in path)][:1]
  return (*phase, *scopes)


def origins(text: str) -> dict[str, Origin]:
  """Each instruction of a module by its name, without the % of the text."""
  module = compiled.parse(text)
  inside = {name: _inside(instructions) for name, instructions in module.items()}
  around: dict[str, tuple] = {}  # computation -> scope of what calls it
  found: dict[str, Origin] = {}
  for computation in reversed(module):  # callers stand after what they call
    types = {i.name: i.type for i in module[computation]}
    for i in module[computation]:
      scope, inferred = _scope(i, inside, found, around.get(computation, ()))
      flops = _flops(i, types, inside)
      found[i.name.removeprefix("%")] = Origin(scope, inferred, _kind(i, inside, flops), i.op, flops)
      for name in compiled.called(i):
        around.setdefault(name, scope)
  return found


class _Inside(NamedTuple):
  """What a computation holds."""

  scopes: collections.Counter
  flops: int
  ops: frozenset[str]


def _inside(instructions) -> _Inside:
  types = {i.name: i.type for i in instructions}
  scopes, flops, ops = collections.Counter(), 0, set()
  for i in instructions:
    if (source := compiled.source_of(i.attributes)).startswith(ROOT):
      scopes[scope_of(source)] += 1
    flops += compiled.product_flops(i, types)
    ops.add(i.op)
  return _Inside(scopes, flops, frozenset(ops))


def _scope(i, inside, found, around) -> tuple[tuple[str, ...], bool]:
  """The scope of an instruction, and whether it is only inferred."""
  source = compiled.source_of(i.attributes)
  if source.startswith(ROOT):
    return scope_of(source), False
  for name in compiled.called(i):
    if i.op == "fusion" and inside[name].scopes:
      return inside[name].scopes.most_common(1)[0][0], False
  read = (found.get(operand.removeprefix("%")) for operand in i.operands)
  return next((origin.scope for origin in read if origin and origin.scope), around), True


def _kind(i, inside, flops) -> str:
  if i.op in CONTROL:
    return "control"
  ops = frozenset([i.op]).union(*(inside[name].ops for name in compiled.called(i)))
  if any(op.removesuffix("-start").removesuffix("-done") in compiled.COLLECTIVES for op in ops):
    return "communication"
  if flops:
    return "matrix product"
  if i.op == "custom-call":
    return "custom call"
  return "copy" if ops <= COPYING else "element-wise and the rest"


def _flops(i, types, inside) -> int:
  if i.op in CONTROL:
    return 0
  return compiled.product_flops(i, types) + sum(inside[name].flops for name in compiled.called(i))


def _named(part: str) -> str | None:
  """The scope in a part of a path: "dual" of "transpose(jvp(dual))", "attention" of Flax's "attention.merge", else None."""
  while wrapped := re.fullmatch(r"(?:jvp|transpose|vmap|remat|custom_jvp|custom_vjp)\((.*)\)", part):
    part = wrapped.group(1)
  # Names of classes repeat what stands around them: a Flax module at the top of a tree has no other name.
  named = re.fullmatch(r"([a-z_]\w*)(?:\.\w+)?", part)
  return named.group(1) if named and part not in MACHINERY else None
