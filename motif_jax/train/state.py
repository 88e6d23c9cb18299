"""The train state: everything that a checkpoint holds and a step replaces."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from motif_jax import sharding
from motif_jax.config import Config
from motif_jax.model import alignment, lora, transformer


class TrainState(flax.struct.PyTreeNode):
  """Float32 master weights, or those of an adapter, their moving average and the optimizer's state, after `step` updates."""

  step: Array  # () int32
  params: dict  # {"model": ..., "projector": ...}; the projector only with alignment
  ema: dict  # of params["model"]
  opt_state: optax.OptState


def create(key: Array, cfg: Config, optimizer: optax.GradientTransformation, weights: dict | None = None) -> TrainState:
  """A new state at step 0, of a model with `weights` or with random ones."""
  params = {"model": init_trained(jax.random.fold_in(key, 0), cfg) if weights is None else weights}
  if cfg.alignment.weight:
    params["projector"] = alignment.init_projector(jax.random.fold_in(key, 1), cfg.alignment, cfg.model.width)
  ema = jax.tree.map(jnp.copy, params["model"])
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=ema, opt_state=optimizer.init(params))


def init_trained(key: Array, cfg: Config) -> dict:
  """New parameters of what is trained: the network, or an adapter."""
  adapter = cfg.adapter
  if adapter.rank:
    return lora.init(key, cfg.model, rank=adapter.rank, targets=adapter.targets)
  return transformer.init(key, cfg.model)


def network(cfg: Config, trained: dict, frozen: dict | None) -> dict:
  """The parameters of the whole network: those that are `trained`, or an adapter beside the `frozen` ones."""
  return trained if frozen is None else lora.attach(frozen, trained, scale=cfg.adapter.alpha / cfg.adapter.rank)


def abstract_state(cfg: Config, optimizer: optax.GradientTransformation) -> TrainState:
  """Shapes and dtypes of the state; needs no memory."""
  return jax.eval_shape(lambda key: create(key, cfg, optimizer), jax.random.key(0))


def abstract_frozen(cfg: Config) -> dict:
  """Shapes and dtypes of the network that an adapter leaves as it is."""
  return jax.eval_shape(lambda key: lora.frozen(transformer.init(key, cfg.model), cfg.model.dtype), jax.random.key(0))


def init_state(key: Array, cfg: Config, mesh: Mesh, optimizer: optax.GradientTransformation,
               weights: dict | None = None) -> TrainState:
  """A new state at step 0, born sharded: no device ever holds more than its part.  `weights` are given up to it."""
  shardings = sharding.state_shardings(abstract_state(cfg, optimizer), mesh)
  # Runs once, so it is compiled for speed of compiling: random bits for many small arrays took 12 s of LLVM for 0.1 s of work.
  options = {"xla_backend_optimization_level": 0}
  made = jax.jit(lambda key, weights: create(key, cfg, optimizer, weights), out_shardings=shardings, donate_argnums=1,
                 compiler_options=options)
  return made(key, weights)
