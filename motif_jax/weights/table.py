"""Tables "their name <-> our path, transform": checked on both sides, read in both directions.  Knows no network.

Theirs is a flat dict with one tensor per layer, as torch lays it out; ours a tree in which a stack of layers is one array with
a leading axis.  A table is a list of rows; the transform of a row is an einops pattern, so that its inverse is the pattern read
backwards and a part of our array says by itself which part of their tensor it needs.
"""

from collections.abc import Mapping, Sequence
import math
import re
from typing import NamedTuple

import numpy as np
from einops import pack, rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

Index = tuple[slice, ...]  # one per axis, without steps

# The transforms that need no sizes; a table adds its own, with the sizes of the axes that stand in brackets.
SAME = "v -> v"
LINEAR = "o i -> i o"


class Row(NamedTuple):
  """One parameter of ours and where it stands in their checkpoint."""

  theirs: str  # "{}" stands for the layer
  ours: str
  how: str
  part: slice = slice(None)  # of their tensor along `axis`, where several of our parameters make up one of theirs
  axis: int = -1
  first: int = 0  # their index of our layer 0
  layers: int | None = None  # None: not a stack

  def names(self) -> list[str]:
    """Their names, one per layer."""
    return [self.theirs] if self.layers is None else [self.theirs.format(self.first + i) for i in range(self.layers)]


class Table(NamedTuple):
  """The rows of a network, the sizes of the axes in brackets, by letter, and the network's abstract parameters."""

  rows: Sequence[Row]
  sizes: Mapping[str, int]
  abstract: Mapping  # a tree of jax.ShapeDtypeStruct: what must be filled
  copies: Sequence[Row] = ()  # parameters that stand in their checkpoint once more: written, and not read


def stack(theirs: str, ours: str, layers: int, rows: Sequence[Row], *, first: int = 0) -> list[Row]:
  """`rows` of one block, for a stack of `layers`, below the prefixes `theirs` and `ours`; a stack of none has no parameters."""
  return [row._replace(theirs=theirs + row.theirs, ours=ours + row.ours, first=first, layers=layers) for row in rows if layers]


def dense(theirs: str, ours: str, how: str = LINEAR, bias: str = SAME) -> list[Row]:
  """A linear layer or a convolution: weight and bias."""
  return [Row(theirs + ".weight", ours + "/kernel", how), Row(theirs + ".bias", ours + "/bias", bias)]


def norm(theirs: str, ours: str) -> list[Row]:
  """An affine LayerNorm: weight and bias."""
  return [Row(theirs + ".weight", ours + "/scale", SAME), Row(theirs + ".bias", ours + "/bias", SAME)]


def to_ours(theirs: Mapping[str, np.ndarray], table: Table) -> dict:
  """Our parameter tree, of numpy arrays, from their flat dict.  ValueError lists all that is missing, unused or misshaped."""
  check({name: np.shape(value) for name, value in theirs.items()}, their_shapes(table))
  ours = {}
  for row in table.rows:
    layers = [rearranged(_cut(np.asarray(theirs[name]), row), row.how, table.sizes) for name in row.names()]
    ours[row.ours] = layers[0] if row.layers is None else np.stack(layers)
  return unflatten_dict(ours, sep="/")


def to_theirs(tree: Mapping, table: Table) -> dict:
  """Their flat dict from our parameter tree, or from anything of its structure: gradients, traced arrays."""
  leaves = flatten_dict(tree, sep="/")
  check({path: leaf.shape for path, leaf in leaves.items()}, our_shapes(table))
  layer_of = lambda path, layer: leaves[path] if layer is None else leaves[path][layer]
  return {name: their_tensor(pieces, layer_of, table.sizes) for name, pieces in pieces_of(table).items()}


def pieces_of(table: Table) -> dict[str, list[tuple[Row, int | None]]]:
  """Their name -> the rows, each with our layer, whose parameters make up that tensor."""
  pieces = {}
  for row in (*table.rows, *table.copies):
    for layer, name in enumerate(row.names()):
      pieces.setdefault(name, []).append((row, None if row.layers is None else layer))
  return pieces


def their_tensor(pieces, layer_of, sizes: Mapping[str, int]):
  """The tensor that `pieces` make up; `layer_of` (our path, layer) gives an array."""
  parts = [rearranged(layer_of(row.ours, layer), _reversed(row.how), sizes) for row, layer in pieces]
  if len(parts) == 1:
    return parts[0]
  axis = pieces[0][0].axis % parts[0].ndim
  return pack(parts, " ".join("*" if i == axis else f"a{i}" for i in range(parts[0].ndim)))[0]


def our_shapes(table: Table) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter of the network; ValueError where the table has no row for one."""
  shapes = {path: leaf.shape for path, leaf in flatten_dict(table.abstract, sep="/").items()}
  if nameless := sorted(set(shapes) - {row.ours for row in table.rows}):
    raise ValueError(f"{len(nameless)} parameters have no name in the other layout: {some(nameless)}; its table lacks rows.")
  return shapes


def their_shapes(table: Table) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor of their checkpoint, at no cost in memory."""
  shapes, ours = {}, our_shapes(table)
  for name, pieces in pieces_of(table).items():
    parts = [_their_shape(row.how, ours[row.ours][layer is not None:], table.sizes) for row, layer in pieces]
    shape, axis = list(parts[0]), pieces[0][0].axis
    if len(parts) > 1:
      shape[axis] = sum(part[axis] for part in parts)
    shapes[name] = tuple(shape)
  return shapes


def _their_shape(how, shape, sizes):
  """The shape that our parameter, or one layer of it, has in their checkpoint."""
  theirs, ours = (_axes(side) for side in how.split(" -> "))
  known = {"1": 1, **sizes} | {group[0]: size for group, size in zip(ours, shape, strict=True) if len(group) == 1}
  return tuple(math.prod(known[letter] for letter in group) for group in theirs)


def rearranged(array, how: str, sizes: Mapping[str, int]):
  """`array` by an einops pattern, told the sizes that it cannot know."""
  return rearrange(array, how, **{axis: size for axis, size in sizes.items() if axis in _letters(how)})


def block_of(row: Row, their_shape: tuple[int, ...], our_shape: tuple[int, ...], index: Index,
             sizes: Mapping[str, int]) -> tuple[Index, dict[str, int], Index]:
  """What to read of their tensor for our part `index` of one layer, of shape `our_shape`.

  (the block of their tensor, the sizes that its rearrangement needs, what to take of the rearranged block).  The block is exactly
  what is wanted where an axis of ours is the slowest feature of an axis of theirs; of any other the whole axis is read.
  """
  theirs, ours = (_axes(side) for side in row.how.split(" -> "))
  block = [slice(0, n) for n in their_shape]
  block[row.axis] = slice(*row.part.indices(their_shape[row.axis])[:2])
  sizes, rest = dict(sizes), []
  for letters, wanted, length in zip(ours, index, our_shape, strict=True):
    start, stop, _ = wanted.indices(length)
    at = next((axis for axis, group in enumerate(theirs) if group[0] == letters[0]), None) if len(letters) == 1 else None
    if (start, stop) == (0, length) or at is None:
      rest.append(slice(start, stop))
      continue
    faster, base = (block[at].stop - block[at].start) // length, block[at].start
    block[at] = slice(base + start * faster, base + stop * faster)
    sizes[letters[0]] = stop - start
    rest.append(slice(0, stop - start))
  return tuple(block), sizes, tuple(rest)


def check(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
  """ValueError unless the names and shapes `given` are those `expected`."""
  found = faults(given, expected)
  if found:
    raise ValueError("\n".join(found))


def faults(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
  """How the names and shapes `given` differ from those `expected`: missing, unused, misshaped; empty if they do not."""
  missing, unused = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
  misshaped = [f"{name} is {tuple(given[name])}, expected {tuple(shape)}" for name, shape in sorted(expected.items())
               if name in given and tuple(given[name]) != tuple(shape)]
  said = ((missing, "tensors are missing", "is every file there?"), (unused, "are not used", "are they another model's?"),
          (misshaped, "have the wrong shape", "does the config fit them?"))
  return [f"{len(items)} {what}: {some(items)}; {ask}" for items, what, ask in said if items]


def some(items: Sequence[str]) -> str:
  """The first five of `items`, for an error."""
  return ", ".join(items[:5]) + (f", and {len(items) - 5} more" if len(items) > 5 else "")


def _cut(array, row):
  where = [slice(None)] * array.ndim
  if array.ndim:
    where[row.axis] = row.part
  return array[tuple(where)]


def _reversed(how):
  return " -> ".join(reversed(how.split(" -> ")))


def _axes(side):
  """One side of a pattern as a tuple of letters for each axis: "(N h) i" -> (("N", "h"), ("i",))."""
  return [tuple((group or single).split()) for group, single in re.findall(r"\(([^)]*)\)|(\S+)", side)]


def _letters(how):
  return set(re.findall(r"\w+", how))
