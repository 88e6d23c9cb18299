"""A stage that starts from another one's checkpoint: what fits is kept, what is new is initialised, and nothing is silent.

A stage counts its own steps, so the state starts at step 0 with its schedules at their beginning; Adam's own count, which
belongs to its moments, goes on with them.
"""

from collections.abc import Sequence
import pathlib
import re
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from motif_jax import sharding
from motif_jax.config import Config
from motif_jax.train import checkpoint, stored
from motif_jax.train.optimizer import restarted
from motif_jax.train.state import TrainState, abstract_state, create


class Changes(NamedTuple):
  """Paths of the parameters, sorted: "model/text_embed/up/kernel"."""

  kept: list[str]
  new: list[str]  # not in the checkpoint, or renewed: of other shapes there
  dropped: list[str]  # in the checkpoint alone
  optimizer: tuple[int, int]  # arrays of the optimizer's state (kept, new)

  def lines(self) -> list[str]:
    """What to print: counts, and the names of all that is new or dropped."""
    return [f"kept {len(self.kept)} parameters, {len(self.new)} new, {len(self.dropped)} dropped; of the optimizer's state "
            f"{self.optimizer[0]} arrays kept, {self.optimizer[1]} new", *(f"  new: {name}" for name in self.new),
            *(f"  dropped: {name}" for name in self.dropped)]


def restore_partial(path: str, cfg: Config, mesh: Mesh, optimizer: optax.GradientTransformation, *,
                    renew: Sequence[str] = (), keep_optimizer: bool = True) -> tuple[TrainState, Changes]:
  """(a new state at step 0 with what the checkpoint that `path` names has of it, what was kept, new and dropped).

  Raw weights, their average and the moments of each parameter go together: all are kept, or all are new.  A checkpoint of
  weights alone gives the weights, and the average and the optimizer start from them.

  Args:
    renew: regular expressions for whole paths of parameters that may have another shape in the checkpoint, and are then new.
    keep_optimizer: moments of kept parameters are kept too, where the optimizer keeps them in the same place.
  """
  folder, step = checkpoint.find(path)
  folder = folder / str(step)
  abstract = abstract_state(cfg, optimizer)
  shardings = dict(sharding.paths_of(sharding.state_shardings(abstract, mesh)))
  ours, theirs = dict(sharding.paths_of(abstract)), stored.leaves(folder)
  alone = not any(name.startswith("params/") for name in theirs)
  if alone:
    theirs |= {name.replace("ema/", "params/model/", 1): leaf for name, leaf in theirs.items()}
  changes = _compare(ours, theirs, folder, renew)
  stays = set(changes.kept)
  moments = {name for name in ours if name.startswith("opt_state/") and keep_optimizer
             and name in theirs and theirs[name].shape == ours[name].shape and _parameter(name, ours) in stays | {None}}
  wanted = moments | {name for name in ours if not name.startswith("opt_state/") and _parameter(name, ours) in stays}
  there = (lambda name: name.replace("params/model/", "ema/", 1)) if alone else lambda name: name
  target = {there(name): jax.ShapeDtypeStruct(ours[name].shape, ours[name].dtype, sharding=shardings[name]) for name in wanted}
  found = stored.read(folder, target)
  made = _fresh(cfg, optimizer, {name: shardings[name] for name in ours if name not in wanted})
  leaves = {name: found[there(name)] if name in wanted else made[name] for name in ours}
  if alone:  # two names of one array would be donated twice
    leaves |= {name: leaf.copy() for name, leaf in leaves.items() if name.startswith("ema/")}
  state = jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in ours])
  counted = sum(name.startswith("opt_state/") for name in ours)
  return state.replace(opt_state=restarted(state.opt_state)), changes._replace(optimizer=(len(moments), counted - len(moments)))


def _compare(ours, theirs, folder: pathlib.Path, renew) -> Changes:
  """What stays, by the shapes of the parameters; ValueError lists those that differ and must not."""
  named = lambda tree: {name.removeprefix("params/"): leaf.shape for name, leaf in tree.items() if name.startswith("params/")}
  ours, theirs = named(ours), named(theirs)
  kept = sorted(name for name in ours if ours[name] == theirs.get(name))
  new = sorted(set(ours) - set(kept))
  wrong = [f"  - {name}: {theirs[name]} in the checkpoint, {ours[name]} in the config" for name in new
           if name in theirs and not any(re.fullmatch(pattern, name) for pattern in renew)]
  if wrong:
    raise ValueError(f"{len(wrong)} parameters have other shapes in {folder}:\n" + "\n".join(wrong) +
                     "\nChange the config, or name those that shall be new, as in renew=('model/text_embed/.*',).")
  return Changes(kept, new, sorted(set(theirs) - set(ours)), (0, 0))


def _parameter(path, ours) -> str | None:
  """The parameter that a leaf of the state belongs to: itself, or the one that an average or a moment is of; else None."""
  parts = path.split("/")
  if parts[0] == "ema":
    return "/".join(["model", *parts[1:]])
  tails = ("/".join(parts[i:]) for i in range(len(parts)))
  return next((tail for tail in tails if f"params/{tail}" in ours), None)


def _fresh(cfg, optimizer, places):
  """path -> array, of the leaves of a new state that `places` names; the compiler drops the others."""
  some = lambda key: {name: leaf for name, leaf in sharding.paths_of(create(key, cfg, optimizer)) if name in places}
  options = {"xla_backend_optimization_level": 0}  # runs once, see `state.init_state`
  return jax.jit(some, out_shardings=places, compiler_options=options)(jax.random.key(cfg.seed))
