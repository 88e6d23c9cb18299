"""What a config must satisfy, beyond the types of its fields: choices, ranges and combinations, each fault a sentence."""

import dataclasses
import difflib
import functools
import math
import re

# The names that a config may use, by key.  The dicts that give them meaning stand in files that import this one, so the names are
# repeated here; a test holds the two together.
CHOICES = {
    "model.cross_attention.kind": ("shared", "separate", "none"),
    "model.cross_attention.query_norm": ("none", "scale", "scale_bias"),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "attention", "block", "offload"),
    "model.attention": ("xla", "chunked", "cudnn", "tokamax"),
    "encoders.teacher_grid": ("teacher", "tokens"),
    "route.policy": ("random", "strided"),
    "data.order": ("random", "shards"),
    "optimizer.kind": ("adamw", "muon"),
    "optimizer.decay": ("constant", "cosine", "linear", "sqrt"),
    "optimizer.average": ("constant", "power"),
    "train.best_is": ("lowest", "highest"),
    "train.benchmark": ("shapes", "scenes"),
    "sample.sampler": ("euler", "heun", "unipc", "dpmpp"),
    "sample.guidance.rule": ("classifier_free", "projected"),
    "sample.token_shift.kind": ("none", "exponential", "linear"),
}
# Numbers that must be at least 1, and that must be positive.
COUNTS = (
    "model.latent_channels", "model.width", "model.heads", "model.unroll", "model.text_dim",
    "route.groups", "alignment.teacher_dim", "alignment.hidden", "data.batch_size", "data.text_tokens", "data.window",
    "train.steps",
    "train.accumulate", "train.log_every", "train.validate_every", "train.validation_batches", "train.sample_every",
    "train.save_every", "train.keep", "train.skips_in_row", "sample.steps", "sample.fps",
)
POSITIVE = ("model.mlp_ratio", "model.rope_theta", "times.std", "times.shift", "optimizer.rate", "optimizer.clip", "sample.shift",
            "sample.image_shift")
NOT_NEGATIVE = ("model.image_dim", "route.last_step", "alignment.weight", "alignment.last_step", "data.workers",
                "adapter.rank", "adapter.alpha", "data.batch_tokens", "optimizer.warmup", "optimizer.weight_decay",
                "train.keep_every", "train.keep_best", "train.stall_seconds", "train.rollbacks", "train.judge",
                "train.telemetry_every", "sample.guidance.threshold", "sample.guidance.momentum")
SHARES = ("data.caption_drop", "data.image_to_video", "data.validation", "data.lost_records", "sample.guidance.rescale")


def _nearest(value: int, divisor: int) -> str:
  """The multiples of `divisor` around `value`, for an error."""
  low = value // divisor * divisor
  return f"{low}, {low + divisor}" if low else f"{divisor}"


def check(cfg) -> list[str]:
  """All that is wrong with `cfg` as a whole, one sentence each; empty if nothing is."""
  wrong: list[str] = []
  for path, known in CHOICES.items():
    one_of(wrong, path, _at(cfg, path), known)
  for paths, holds, expected in ((COUNTS, lambda x: x >= 1, "at least 1"), (POSITIVE, lambda x: x > 0, "a positive number"),
                                 (NOT_NEGATIVE, lambda x: x >= 0, "0 or more"),
                                 (SHARES, lambda x: 0 <= x <= 1, "a share between 0 and 1")):
    wrong += [f"{path} is {_at(cfg, path)}, expected {expected}." for path in paths if not holds(_at(cfg, path))]
  return wrong + _check_model(cfg.model) + _check_recipe(cfg) + _check_sample(cfg.sample)


def _at(cfg, path: str):
  return functools.reduce(getattr, path.split("."), cfg)


def _check_model(model) -> list[str]:
  wrong = []
  if model.heads < 1:
    pass  # said above
  elif model.width % model.heads:
    wrong.append(f"model.width {model.width} is not divisible by model.heads {model.heads}; "
                 f"the nearest widths that are: {_nearest(model.width, model.heads)}.")
  elif sum(model.rope_axes) != model.head_dim or any(a % 2 for a in model.rope_axes):
    wrong.append(f"model.rope_axes {model.rope_axes} sum to {sum(model.rope_axes)}; expected three even numbers that sum to "
                 f"the head width, model.width / model.heads = {model.head_dim}.")
  hidden = model.mlp_ratio * model.width
  if not math.isclose(hidden, round(hidden)):
    hidden = int(hidden)
    wrong.append(f"model.mlp_ratio {model.mlp_ratio:g} times model.width {model.width} is not a whole number; the nearest ratios "
                 f"that make one: {', '.join(repr(h / model.width) for h in (hidden, hidden + 1) if h)}.")
  if min(dataclasses.astuple(model.depths)) < 0 or model.depths.dual + model.depths.single == 0:
    wrong.append(f"model.{model.depths} must not be negative, and dual or single must be positive.")
  cross = model.cross_attention
  if cross.kind in ("separate", "none") and cross.query_norm != "none":
    wrong.append(f"model.cross_attention.query_norm is {cross.query_norm!r}, but a cross-attention of kind {cross.kind!r} has no "
                 "such norm, only 'shared' has; set query_norm to 'none'.")
  if min(model.patch) < 1:
    wrong.append(f"model.patch {model.patch} must be three positive numbers (time, height, width).")
  return wrong


def _check_recipe(cfg) -> list[str]:
  wrong = []
  routable = cfg.model.depths.dual + cfg.model.depths.single
  route, alignment = cfg.route, cfg.alignment
  if not 0 < route.keep <= 1:
    wrong.append(f"route.keep is {route.keep}, expected a share in (0, 1]; 1 switches routing off.")
  if route.keep < 1 and not 0 <= route.start < route.stop <= routable:
    wrong.append(f"route [start, stop) = [{route.start}, {route.stop}) must lie in [0, {routable}): dual and single blocks only, "
                 "because the decoder always sees every token.")
  if alignment.weight > 0 and not 1 <= alignment.tap <= routable:
    wrong.append(f"alignment.tap is {alignment.tap}, expected 1 to {routable} (after that many dual and single blocks).")
  if alignment.weight > 0 and alignment.teacher != cfg.encoders.teacher:
    wrong.append(f"alignment.teacher is {alignment.teacher!r} but encoders.teacher is {cfg.encoders.teacher!r}; make them equal.")
  if cfg.adapter.rank and not (cfg.adapter.base and cfg.adapter.targets):
    wrong.append(f"adapter.rank is {cfg.adapter.rank}, but adapter.base is {cfg.adapter.base!r} and adapter.targets "
                 f"{cfg.adapter.targets}: an adapter needs a network and kernels in it; launch.finetune fills the base in.")
  if cfg.adapter.rank and alignment.weight > 0:
    wrong.append(f"alignment.weight is {alignment.weight}, but an adapter trains no projector; set it to 0.")
  if alignment.weight > 0 and alignment.teacher == "none":
    wrong.append(f"alignment.weight is {alignment.weight}, but encoders.teacher is 'none'; name one, or set the weight to 0.")
  if min(cfg.data.captions) < 0 or not math.isclose(sum(cfg.data.captions), 1, abs_tol=1e-6):
    wrong.append(f"data.captions {cfg.data.captions} must be three probabilities that sum to 1.")
  if cfg.data.image_tokens and not (cfg.model.image_dim and cfg.data.image_to_video and cfg.encoders.image != "none"):
    wrong.append(f"data.image_tokens is on, but model.image_dim is {cfg.model.image_dim}, data.image_to_video "
                 f"{cfg.data.image_to_video} and encoders.image {cfg.encoders.image!r}: it takes all three; set them, or "
                 "switch it off.")
  if cfg.data.weights and (min(w for _, w in cfg.data.weights) < 0 or not any(w for _, w in cfg.data.weights)):
    wrong.append(f"data.weights {cfg.data.weights} must be shares of 0 or more, and one of them positive.")
  if any(weight <= 0 for _, weight in cfg.data.mixture):
    wrong.append(f"data.mixture {cfg.data.mixture} must give each folder a positive share of the samples; leave out the others.")
  if cfg.data.order == "shards" and (cfg.data.workers > 1 or cfg.data.source != "array_record"):
    wrong.append("data.order 'shards' reads array_record files in one process, since several would each read all of them: "
                 f"data.workers is {cfg.data.workers}, expected 0 or 1; data.source is {cfg.data.source!r}, expected "
                 "'array_record'.")
  batch, parts = cfg.data.batch_size, cfg.train.accumulate
  if parts > 0 and batch % parts:
    near = sorted((d for d in range(1, batch + 1) if batch % d == 0), key=lambda d: abs(d - parts))[:2]
    wrong.append(f"data.batch_size {batch} does not divide into train.accumulate = {parts} microbatches; the nearest batch sizes "
                 f"that do: {_nearest(batch, parts)}; the nearest train.accumulate: {', '.join(map(str, sorted(near)))}.")
  return wrong + _check_optimizer(cfg.optimizer) + _check_run(cfg)


def _check_optimizer(optimizer) -> list[str]:
  wrong = []
  if not 0 <= optimizer.ema < 1:
    wrong.append(f"optimizer.ema is {optimizer.ema}, expected a decay in [0, 1).")
  if not 0 < optimizer.ema_width < 12**-0.5:
    wrong.append(f"optimizer.ema_width is {optimizer.ema_width}, expected a share of the run in (0, 0.288), where a flat "
                 "average of the whole run is 0.289; 0.05 to 0.15 is usual.")
  if not 0 < optimizer.decay_share <= 1:
    wrong.append(f"optimizer.decay_share is {optimizer.decay_share}, expected a share of the steps in (0, 1]; decay='constant' "
                 "switches the decay off.")
  for name, patterns in (("rates", [pattern for pattern, _ in optimizer.rates]), ("undecayed", optimizer.undecayed)):
    wrong += [f"optimizer.{name}: {pattern!r} is no regular expression." for pattern in patterns if not _compiles(pattern)]
  wrong += [f"optimizer.rates: the factor of {pattern!r} is {factor}, expected 0 (frozen) or more."
            for pattern, factor in optimizer.rates if factor < 0]
  return wrong


def _compiles(pattern) -> bool:
  try:
    re.compile(pattern)
  except re.error:
    return False
  return True


def _check_run(cfg) -> list[str]:
  wrong = []
  if cfg.train.keep_best and cfg.train.best_by.startswith("validation/") and not cfg.data.validation:
    wrong.append(f"train.keep_best is {cfg.train.keep_best}, by {cfg.train.best_by}, but data.validation 0 holds nothing out.")
  sizes = dataclasses.astuple(cfg.mesh)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    wrong.append(f"mesh (data, fsdp, sequence) = {sizes}: each must be positive, and at most one -1 (takes what is left).")
  return wrong


def _check_sample(how) -> list[str]:
  wrong = []
  low, high = how.guidance.interval
  if not 0 <= low < high <= 1:
    wrong.append(f"sample.guidance.interval is ({low:g}, {high:g}), expected times 0 <= from < to <= 1; (0.0, 1.0) is always.")
  sigmas, walked = how.sigmas, len(how.sigmas) - (how.sigmas[-1:] == (0.0,))
  if sigmas and not (sigmas[0] <= 1 and sigmas[-1] >= 0 and all(b < a for a, b in zip(sigmas, sigmas[1:]))):
    wrong.append(f"sample.sigmas are {sigmas}, expected times that fall, from at most 1 (noise) on, none below 0 (data).")
  elif sigmas and walked != how.steps:
    wrong.append(f"sample.sigmas are {walked} steps (a 0 at their end is none) but sample.steps is {how.steps}; make them equal.")
  (first, last), mu = how.token_shift.between, how.token_shift.mu
  if not 0 < first < last or how.token_shift.kind == "linear" and min(mu) <= 0:
    wrong.append(f"sample.token_shift has between=({first}, {last}) and mu={mu}, expected tokens 0 < first < last, and of kind "
                 "'linear' positive mu.")
  skip = how.cache.skip
  if any(b <= a for a, b in zip((0, *skip), skip)) or skip[-1:] >= (how.steps,):
    wrong.append(f"sample.cache.skip is {skip}, expected numbers of steps that rise, from 1 (step 0 has nothing to go by) to "
                 f"{how.steps - 1}, sample.steps less 1.")
  if how.cache.order not in (0, 1):
    wrong.append(f"sample.cache.order is {how.cache.order}, expected 0 (the last velocity) or 1 (the line through the last two).")
  return wrong


def one_of(wrong: list[str], path: str, value: str, known) -> None:
  """Appends a sentence to `wrong` unless `value` is one of `known`."""
  if value not in known:
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    wrong.append(f"{path} is {value!r}, expected one of {', '.join(map(repr, known))}{hint}")
