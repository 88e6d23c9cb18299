"""The optimizers: AdamW, and Muon for the matrices of the blocks, behind one learning-rate schedule and one clipping."""

from collections.abc import Sequence
import math
import re

import jax
import jax.numpy as jnp
import optax

from motif_jax import sharding
from motif_jax.config import OptimizerConfig

# Muon's momentum, and the root mean square of its update relative to AdamW's, so that one learning rate and one weight decay
# serve both kinds of parameters (Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982).
MUON_MOMENTUM = 0.95
MUON_RMS = 0.2

# What Muon updates.  Modulations stay with AdamW: their input is the time embedding alone, so their gradients have low rank, and
# orthogonalisation would blow up what is left.  Embedders, output and projector stay with AdamW too, as is usual.
_INTO_HEADS = rf"{sharding.STACK}/(attention|cross)/(query|key|value)/kernel"  # (layer, D, N, dh)
_FROM_HEADS = rf"{sharding.STACK}/(attention|cross)/out/kernel"  # (layer, N, dh, D)
_PLAIN = rf"{sharding.STACK}/mlp/(up|down)/kernel"  # (layer, in, out)

DECAYS = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1 + jnp.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - jnp.sqrt(progress),  # Haegele et al. (arXiv 2405.18392) find it best after a constant rate
}


def make_optimizer(cfg: OptimizerConfig, *, steps: int) -> optax.GradientTransformation:
  """The gradient transformation of `cfg` for a run of `steps`: clip to a global norm, then the optimizer of that kind.

  Its `init` raises ValueError where a pattern of `cfg` fits no parameter, or two fit one.
  """
  if cfg.kind not in OPTIMIZERS:
    raise ValueError(f"optimizer.kind is {cfg.kind!r}; known optimizers: {', '.join(OPTIMIZERS)}.")
  kind = OPTIMIZERS[cfg.kind](cfg, lambda step: rate(step, cfg, steps=steps))
  # A part of the chain is a part of every checkpoint, so there is none for what is not asked for.
  rescaled = [_scale_by_path(cfg.rates)] if cfg.rates else []
  chain = optax.chain(_scoped("clip", optax.clip_by_global_norm(cfg.clip)), kind, *rescaled)

  def init(params):
    check_patterns(cfg, params)
    return chain.init(params)

  return optax.GradientTransformationExtraArgs(init, chain.update)


def rate(step, cfg: OptimizerConfig, *, steps: int):
  """The learning rate at `step`: a linear warm-up that ends at cfg.rate, then `cfg.decay` down to 0 at `steps`.

  The decay takes the last `cfg.decay_share` of the steps, less the warm-up where they meet.
  """
  warmup = jnp.minimum((step + 1) / max(cfg.warmup, 1), 1.0)  # + 1: the first step is not lost
  start = max(cfg.warmup, round((1 - cfg.decay_share) * steps))
  progress = jnp.clip((step - start) / max(steps - start, 1), 0.0, 1.0)
  return cfg.rate * warmup * DECAYS[cfg.decay](progress)


def restarted(opt_state):
  """`opt_state` with its learning-rate schedule at the beginning; moments, and the counts that correct them, stay."""
  schedule = lambda part: isinstance(part, optax.ScaleByScheduleState)
  return jax.tree.map(lambda part: part._replace(count=jnp.zeros_like(part.count)) if schedule(part) else part, opt_state,
                      is_leaf=schedule)


def adamw(cfg: OptimizerConfig, schedule) -> optax.GradientTransformation:
  """AdamW; weight decay on kernels only."""
  return _scoped("adamw", optax.adamw(schedule, *cfg.betas, weight_decay=cfg.weight_decay,
                                      mask=lambda params: decayed(params, cfg.undecayed)))


def muon(cfg: OptimizerConfig, schedule) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024) for the matrices of the blocks, each layer on its own, and AdamW for everything else."""
  matrices = optax.chain(
      optax.contrib.scale_by_muon(beta=MUON_MOMENTUM, weight_dimension_numbers=matrix_axes),
      _scale_to_rms(MUON_RMS),
      optax.add_decayed_weights(cfg.weight_decay, (lambda params: decayed(params, cfg.undecayed)) if cfg.undecayed else None),
      optax.scale_by_learning_rate(schedule),
  )
  kinds = lambda params: _map_paths(lambda path, x: "muon" if _axes_of(path) else "adamw", params)
  return optax.partition({"muon": _scoped("muon", matrices), "adamw": adamw(cfg, schedule)}, kinds)


def decayed(params, undecayed: Sequence[str] = ()):
  """True for the leaves that weight decay acts on: kernels, not biases, not scales of norms, and none that `undecayed` fits."""
  return _map_paths(lambda path, x: path.endswith("/kernel") and not _hits(undecayed, path), params)


def check_patterns(cfg: OptimizerConfig, params) -> None:
  """Raises ValueError for patterns of `cfg` that fit none of `params` (abstract or not), and for two rates of one parameter."""
  paths = [sharding.parameter_name(path) for path, _ in sharding.paths_of(params)]
  rates = [pattern for pattern, _ in cfg.rates]
  kernels = [path for path in paths if path.endswith("/kernel")]
  asked = (("rates", rates, "parameter", paths), ("undecayed", cfg.undecayed, "kernel", kernels))
  wrong = [f"optimizer.{name}: {pattern!r} fits no {what}, as {known[len(known) // 2]} is one."
           for name, patterns, what, known in asked for pattern in patterns if not any(_hits([pattern], path) for path in known)]
  twice = {path: hits for path in paths if len(hits := _hits(rates, path)) > 1}
  wrong += [f"optimizer.rates: {' and '.join(map(repr, hits))} both fit {path}; a parameter has one rate."
            for path, hits in list(twice.items())[:3]]
  if wrong:
    raise ValueError("\n".join(wrong))


def _hits(patterns: Sequence[str], path: str) -> list[str]:
  return [pattern for pattern in patterns if re.fullmatch(pattern, path)]


def _scale_by_path(rates):
  """Scales updates, weight decay and all, by the factor of the pattern that fits their path."""
  factors = dict(rates)
  scale = lambda path, update: update * factors[hits[0]] if (hits := _hits(factors, path)) else update
  return optax.stateless(lambda updates, params: _map_paths(scale, updates))


def matrix_axes(params):
  """For each leaf, which axes are a matrix's rows and which its columns; the axes left over (layers) are matrices apart."""
  return _map_paths(lambda path, x: _axes_of(path), params)


def _axes_of(path):
  if re.fullmatch(_INTO_HEADS, path):
    return optax.contrib.MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2, 3))
  if re.fullmatch(_FROM_HEADS, path):
    return optax.contrib.MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=(3,))
  if re.fullmatch(_PLAIN, path):
    return optax.contrib.MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2,))
  return None


def _scoped(name: str, transformation: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """`transformation` under a name that profiles show."""
  update = optax.with_extra_args_support(transformation).update
  return optax.GradientTransformationExtraArgs(transformation.init, jax.named_scope(name)(update))


def _scale_to_rms(rms):
  """Scales an orthogonal matrix (rows, columns), whose mean square is 1 / max(rows, columns), to the root mean square `rms`."""

  def scale(path, update):
    axes = _axes_of(path)
    rows, columns = (math.prod(update.shape[a] for a in group) for group in axes)
    return update * rms * math.sqrt(max(rows, columns))

  return optax.stateless(lambda updates, params: _map_paths(scale, updates))


def _map_paths(function, tree):
  """The tree of function(path, leaf), with paths as the sharding table has them."""
  leaves = [function(sharding.parameter_name(path), leaf) for path, leaf in sharding.paths_of(tree)]
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


OPTIMIZERS = {"adamw": adamw, "muon": muon}
