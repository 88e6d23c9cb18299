"""Where every array of a train state lives: a strict table path -> PartitionSpec, and the shardings of a whole state.

Parameters, EMA and optimizer moments are split over fsdp and sequence together: over fsdp alone, a (1, 1, 8) mesh would hold the
whole state on every GPU.  Biases and norm scales are replicated: together they are less than 0.1 % of the parameters.
"""

import math
import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

SHARDS = ("fsdp", "sequence")
STACK = r"(dual/video|dual/text|dual|single|decoder)"  # leaves below it have a leading layer axis

# Exactly one rule per parameter; paths below the name of the network, so that params and ema read alike.
RULES = (
    (r"video_embed/kernel", P(None, SHARDS)),  # (in, D): in is small and odd, for example 33 * 4
    (r"(text_embed|image_embed|time_embed)/(up|down)/kernel", P(SHARDS, None)),  # (in, D)
    (rf"{STACK}/modulation/kernel", P(None, SHARDS, None)),  # (layer, D, 6 D or 3 D)
    (rf"{STACK}/(attention|cross)/(query|key|value)/kernel", P(None, SHARDS, None, None)),  # (layer, D, N, dh)
    (rf"{STACK}/(attention|cross)/out/kernel", P(None, None, None, SHARDS)),  # (layer, N, dh, D)
    (rf"{STACK}/mlp/(up|down)/kernel", P(None, SHARDS, None)),  # (layer, D, 4 D) and back
    (r"output/(modulation|proj)/kernel", P(SHARDS, None)),  # (D, 2 D), (D, C pt ph pw)
    (r"projector/\w+/kernel", P(SHARDS, None)),  # (D, hidden), (hidden, hidden), (hidden, teacher_dim)
    (r".*/(bias|scale)", P()),
    # Low-rank adapters: cut along the features, never along the rank.
    (rf"{STACK}/((attention|cross)/(query|key|value)|mlp/\w+|modulation)/adapter/down", P(None, SHARDS, None)),  # (layer, D, r)
    (rf"{STACK}/(attention|cross)/out/adapter/down", P(None, None, SHARDS, None)),  # (layer, N, dh, r)
    (rf"{STACK}/(attention|cross)/(query|key|value)/adapter/up", P(None, None, None, SHARDS)),  # (layer, r, N, dh)
    (rf"{STACK}/((attention|cross)/out|mlp/\w+|modulation)/adapter/up", P(None, None, SHARDS)),  # (layer, r, D)
    (r"(\w+_embed|output)/\w+/adapter/down", P(SHARDS, None)),  # (in, r)
    (r"(\w+_embed|output)/\w+/adapter/up", P(None, SHARDS)),  # (r, out)
)

# An array of the state that mirrors no parameter (counters, coefficients) is replicated, so it has to be small.
SMALL = 4096


def spec_of(path: str, shape: tuple[int, ...]) -> P:
  """The PartitionSpec of the parameter at `path`, as the table has it; ValueError unless exactly one rule matches."""
  hits = [spec for pattern, spec in RULES if re.fullmatch(pattern, path)]
  if len(hits) != 1:
    raise ValueError(f"{path} {shape} matches {len(hits)} sharding rules, expected exactly one; "
                     "see RULES in motif_jax/sharding.py.")
  if hits[0] and len(hits[0]) != len(shape):
    raise ValueError(f"{path} {shape} has {len(shape)} axes but its sharding rule has {len(hits[0])}: {hits[0]}.")
  return hits[0]


def fitted_spec(path: str, shape: tuple[int, ...], parts: int) -> P:
  """`spec_of`, made to fit sizes that do not divide by the number of `parts`.

  The split moves to the largest other axis that divides (never to the layer axis: the scan over layers slices it), and where
  none does the array is replicated.  At the sizes in `configs/` nothing moves; models of unit tests need it.
  """
  spec = spec_of(path, shape)
  axis = next((i for i, name in enumerate(spec) if name), None)
  if axis is None or shape[axis] % parts == 0:
    return spec
  first = 1 if re.match(STACK + "/", path) else 0
  others = [i for i in range(first, len(shape)) if shape[i] % parts == 0]
  if not others:
    return P()
  moved = max(others, key=lambda i: shape[i])
  return P(*(SHARDS if i == moved else None for i in range(len(shape))))


def paths_of(tree) -> list[tuple[str, jax.Array]]:
  """(path, leaf) of every leaf, keys joined by slashes: "model/dual/video/mlp/up/kernel"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def parameter_name(path: str) -> str:
  """The path that the table knows: parameters of the model lose the name of their network, the projector's keep it."""
  return path.removeprefix("model/")


def parameter_shardings(params, mesh: Mesh):
  """The tree of NamedShardings of the parameters of a model, or of {"model": ..., "projector": ...}."""
  parts = shard_count(mesh)
  specs = [fitted_spec(parameter_name(path), leaf.shape, parts) for path, leaf in paths_of(params)]
  return jax.tree.unflatten(jax.tree.structure(params), [NamedSharding(mesh, spec) for spec in specs])


def shard_count(mesh: Mesh) -> int:
  """Into how many parts `mesh` splits a parameter."""
  return math.prod(mesh.shape[axis] for axis in SHARDS)


def state_shardings(state, mesh: Mesh):
  """The tree of NamedShardings of a TrainState (abstract or not) on `mesh`.

  An array of the optimizer's state whose path ends in a parameter's path, and whose shape is the parameter's, is a moment of it
  and lies where it lies.  That holds for every optax transformation that maps over the parameters, whatever it is wrapped in.
  """
  parts = shard_count(mesh)
  table = {path: (leaf.shape, fitted_spec(parameter_name(path), leaf.shape, parts)) for path, leaf in paths_of(state.params)}
  table |= {parameter_name(path): entry for path, entry in table.items()}  # ema holds the model alone
  specs = [_spec_in_state(path, leaf.shape, table) for path, leaf in paths_of(state)]
  return jax.tree.unflatten(jax.tree.structure(state), [NamedSharding(mesh, spec) for spec in specs])


def _spec_in_state(path, shape, table):
  """The spec of the parameter that `path` ends in, or P() for what mirrors none."""
  parts = path.split("/")
  for start in range(len(parts)):  # longest suffix first: a/mlp/up must not be taken for mlp/up
    found = table.get("/".join(parts[start:]))
    if found and found[0] == shape:
      return found[1]
  if math.prod(shape) > SMALL:
    raise ValueError(f"{path} {shape} mirrors no parameter, so it would be replicated on every device, and it has more than "
                     f"{SMALL} elements; give it a rule in motif_jax/sharding.py.")
  return P()


def bytes_per_device(state, shardings) -> int:
  """Bytes that one device holds of `state` under `shardings`."""
  sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, state, shardings)
  return sum(jax.tree.leaves(sizes))
