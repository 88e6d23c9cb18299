"""One training step: a pure function of state and batch, jitted once per shape of batch.

All randomness comes from fold_in(key(seed), step), so a run that resumes draws what it would have drawn.  The key is an argument:
as a constant it would make another program of each seed.
"""

import functools
from typing import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from motif_jax import sharding
from motif_jax.config import Config
from motif_jax.mesh import batch_sharding, constrain
from motif_jax.model.plan import Segment, make_plan
from motif_jax.train import average, losses, optimizer as optimizers
from motif_jax.train.state import TrainState, abstract_state, network

ABSTRACT_KEY = jax.eval_shape(jax.random.key, 0)


def plan_at(cfg: Config, step: int) -> tuple[Segment, ...]:
  """The plan of training step `step`: routed and tapped up to the last step of each.

  A plan is static, so each is a compiled function of its own: what is off costs nothing.
  """
  routed = cfg.route.keep < 1 and (cfg.route.last_step == 0 or step < cfg.route.last_step)
  aligned = cfg.alignment.weight > 0 and (cfg.alignment.last_step == 0 or step < cfg.alignment.last_step)
  route = (cfg.route.start, cfg.route.stop) if routed else None
  return make_plan(cfg.model.depths, route, cfg.alignment.tap if aligned else None)


def plans_of(cfg: Config) -> dict[tuple[Segment, ...], int]:
  """Plan -> the first step that runs it, the last one first."""
  return {plan_at(cfg, first): first for first in sorted({0, cfg.route.last_step, cfg.alignment.last_step}, reverse=True)}


def make_train_step(cfg: Config, mesh: Mesh, optimizer: optax.GradientTransformation, *,
                    plan: tuple[Segment, ...], measure: Callable = dict, of_block: Callable | None = None,
                    frozen: dict | None = None) -> Callable:
  """(state, batch) -> (state, measured), compiled for `mesh` at the first call with each shape of batch.

  A batch whose loss or gradient is not finite changes nothing but `step`, the position in the data: weights, average and
  optimizer, with its own count for the schedule, stay as they are.

  The given state is donated: its memory holds the new one.  Shardings are pinned, because with Auto axes XLA may return what it
  likes.  The jitted function itself is `.jitted`, (state, batch, key[, frozen]) -> (state, measured): it lowers from abstract
  arguments, such as `ABSTRACT_KEY`, on any number of devices.

  Args:
    plan: of the forward pass, from `plan_at`.
    measure: called inside the step with loss (B,), t (B,), gradient_norm () before clipping, learning_rate () and, if the plan is
      tapped, alignment (B,), and updated () bool, all by keyword.
    of_block: measures each block (`stack.run_span`); `measure` then gets also blocks, kind -> {name: (B, blocks)}, and what the
      step moves: params, updates, gradients, ema (before the step), conditioned (B,), text, text_mask.
    frozen: the network that an adapter is trained on, on `mesh`.
  """
  routed = any(segment.routed for segment in plan)
  shardings = sharding.state_shardings(abstract_state(cfg, optimizer), mesh)

  def step(state: TrainState, batch: dict, key: Array, frozen: dict | None = None):
    key = jax.random.fold_in(key, state.step)
    draws = losses.draw(key, cfg, batch["latents"].shape, routed=routed, pictured="image" in batch)
    batch = batch | dict(latents=losses.drawn_latents(key, batch))
    parts, gradients = accumulated(state.params, cfg, batch, draws, plan, shardings.params, of_block=of_block, frozen=frozen)
    with jax.named_scope("optimizer"):
      updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
    ema = average.moved(state.ema, params["model"], average.decay_at(state.step, cfg.optimizer))
    norm = optax.global_norm(gradients)
    updated = jnp.isfinite(norm) & jnp.isfinite(parts["loss"]).all()
    kept = lambda new, old: jax.tree.map(lambda x, y: jnp.where(updated, x, y), new, old)
    with jax.named_scope("optimizer"):
      params, opt_state = kept((params, opt_state), (state.params, state.opt_state))
    with jax.named_scope("ema"):
      ema = kept(ema, state.ema)
    rate = optimizers.rate(state.step, cfg.optimizer, steps=cfg.train.steps)
    if of_block is not None:
      parts |= dict(params=state.params, updates=updates, gradients=gradients, ema=state.ema, conditioned=draws.conditioned,
                    text=batch["text"], text_mask=batch["text_mask"])
    with jax.named_scope("metrics"):
      measured = measure(**parts, t=draws.t, gradient_norm=norm, learning_rate=rate, updated=updated)
    return TrainState(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), measured

  beside = () if frozen is None else (frozen,)  # an argument: a constant would be compiled in
  everywhere = NamedSharding(mesh, P())
  jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, everywhere), in_shardings=(
      shardings, batch_sharding(mesh), everywhere, *(sharding.parameter_shardings(tree, mesh) for tree in beside)))

  @functools.cache
  def key():  # sent to the devices at the first step, and at no other
    return jax.jit(lambda key: key, out_shardings=everywhere)(jax.random.key(cfg.seed))

  def run(state, batch):
    with jax.set_mesh(mesh):
      return jitted(state, batch, key(), *beside)

  run.jitted = jitted
  return run


def accumulated(params: dict, cfg: Config, batch: dict, draws: losses.Draws, plan: tuple[Segment, ...],
                shardings: dict, *, of_block: Callable | None = None, frozen: dict | None = None) -> tuple[dict, dict]:
  """The parts of the objective, per sample, and the gradients of its mean, computed in `train.accumulate` microbatches.

  Draws come in for the whole batch, so that the number of microbatches changes neither.  `shardings`: of the parameters, and so
  of the gradients, which are summed in float32 where their parameter lies.
  """
  count = cfg.train.accumulate
  whole = lambda params: params | {"model": network(cfg, params["model"], frozen)}
  gradient = jax.value_and_grad(lambda params, *given: losses.objective(whole(params), *given), has_aux=True)
  if count == 1:
    (_, parts), gradients = gradient(params, cfg, batch, draws, plan, of_block)
    return parts, gradients

  def add(total, rows):
    (_, parts), new = gradient(params, cfg, *rows, plan, of_block)
    total = jax.tree.map(lambda old, x: old + x.astype(jnp.float32) / count, total, new)
    return jax.lax.with_sharding_constraint(total, shardings), parts

  zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), params)
  total, parts = jax.lax.scan(add, jax.lax.with_sharding_constraint(zeros, shardings), microbatches((batch, draws), count))
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), parts), total


def microbatches(tree, count: int):
  """Each array (B, ...) of `tree` as (count, B / count, ...), each microbatch spread over the mesh as the batch was.

  Microbatch i takes the rows i, i + count, ...  Rows lie in one piece on each device, so every device cuts its own; with
  consecutive rows per microbatch the whole batch would move.
  """
  deal = lambda x: jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)
  return jax.tree.map(lambda x: constrain(deal(x), None, "batch", *(None,) * (x.ndim - 1)), tree)
