"""Which checkpoints stay: the last few, the best by a figure, and every k-th for ever."""

from collections.abc import Mapping
import math

from motif_jax.config import TrainConfig

Figures = Mapping[str, float]  # what evaluation said of the weights of one step: "validation/loss" -> value


def reasons(steps: Mapping[int, Figures], cfg: TrainConfig) -> dict[int, list[str]]:
  """Step -> why it stays ("last", "every", "best"), of `steps` with their figures; empty lists for those that may go."""
  last = sorted(steps)[-cfg.keep:]
  ranked = best(steps, cfg)[:cfg.keep_best]
  told = lambda step: [("last", step in last), ("every", cfg.keep_every > 0 and step > 0 and step % cfg.keep_every == 0),
                       ("best", step in ranked)]
  return {step: [name for name, holds in told(step) if holds] for step in sorted(steps)}


def best(steps: Mapping[int, Figures], cfg: TrainConfig) -> list[int]:
  """The steps that have the figure `cfg.best_by`, best first; of equals the earlier one; a NaN is never among them."""
  sign = -1 if cfg.best_is == "highest" else 1
  found = {step: sign * figures[cfg.best_by] for step, figures in steps.items() if cfg.best_by in figures}
  return sorted((step for step, value in found.items() if not math.isnan(value)), key=lambda step: (found[step], step))


def unknown(figures: Figures, cfg: TrainConfig) -> str:
  """What to say if `train.keep_best` waits for a figure that is not among those of an evaluation; else nothing."""
  if not cfg.keep_best or not figures or cfg.best_by in figures:
    return ""
  return f"train.keep_best keeps nothing by {cfg.best_by!r}, which evaluation does not say; it says {', '.join(sorted(figures))}"
