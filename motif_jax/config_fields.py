"""Frozen dataclasses from nested mappings: every key known, there and of its type, or a sentence that says which is not."""

import dataclasses
import difflib
import types
import typing


def build(kind, values, path, problems):
  """An instance of the frozen dataclass `kind` from the mapping `values`, or None where `problems` grew by a sentence each."""
  before = len(problems)
  hints = typing.get_type_hints(kind)
  for key in sorted(set(values) - set(hints)):
    close = difflib.get_close_matches(key, hints, n=1)
    hint = f"did you mean {path}{close[0]}?" if close else f"known keys: {', '.join(hints)}."
    problems.append(f"{path}{key} is not a config key; {hint}")
  for key in [k for k in hints if k not in values]:
    problems.append(f"{path}{key} is missing; start from configs/base.py, which sets every key.")
  made = {k: _value(hint, values[k], path + k, problems) for k, hint in hints.items() if k in values}
  return kind(**made) if len(problems) == before else None


def _value(hint, value, path, problems):
  if dataclasses.is_dataclass(hint):
    try:
      return build(hint, dict(value), path + ".", problems)
    except (TypeError, ValueError):
      problems.append(f"{path} is {value!r}, expected a section with the keys {', '.join(typing.get_type_hints(hint))}.")
      return None
  if isinstance(hint, types.GenericAlias):
    *kinds, last = hint.__args__
    items = list(value) if isinstance(value, (list, tuple)) else None
    if items is not None:
      kinds = kinds * len(items) if last is Ellipsis else [*kinds, last]
    if items is None or len(items) != len(kinds):
      count = "any number of" if last is Ellipsis else len(hint.__args__)
      names = " and ".join(dict.fromkeys(kind.__name__ for kind in hint.__args__ if kind is not Ellipsis))
      problems.append(f"{path} is {value!r}, expected {count} values of type {names}.")
      return None
    return tuple(_value(kind, v, f"{path}[{i}]", problems) for i, (kind, v) in enumerate(zip(kinds, items)))
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if type(value) is not hint:
    problems.append(f"{path} is {value!r} of type {type(value).__name__}, expected {hint.__name__}.")
    return None
  if value != value:
    problems.append(f"{path} is nan, expected a number.")
  return value
