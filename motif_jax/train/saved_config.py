"""The config inside a checkpoint: read whatever its age, and held against the config that wants to go on from it."""

import json
import pathlib

from flax.traverse_util import flatten_dict

from motif_jax import config as configs, outside
from motif_jax.config import Config

# Fields of the model's config that change how it runs and not what it is.
RUN_TIME = ("dtype", "remat", "unroll", "attention")
# Keys that came later than some checkpoints, and a section, where they stand, with what was true before there was a choice.
CAME_LATER = {
    "encoders": dict(image="none", weights=dict(codec="", text="", teacher="", image=""), teacher_grid="teacher",
                     log_variance=False),
    "data": dict(buckets=(), batch_tokens=0, pattern=(), weights=(), sample_latents=False, mixture=(), order="random",
                 window=4096, lost_records=0.0, image_tokens=False),
    "train": dict(keep_every=0, keep_best=0, best_by="validation/loss", best_is="lowest", verify=False, skips_in_row=5,
                  rollbacks=3, stall_seconds=0.0, telemetry_every=0, judge=0, benchmark="shapes"),
    "sample": dict(token_shift=dict(kind="none", between=(256, 4096), mu=(0.5, 1.15)), sigmas=(), cache=dict(skip=(), order=1),
                   guidance=dict(rule="classifier_free", rescale=0.0, momentum=0.0, threshold=0.0, eta=1.0, interval=(0.0, 1.0),
                                 together=True)),
    "optimizer": dict(decay_share=1.0, average="constant", ema_width=0.1, rates=(), undecayed=()),
    "adapter": dict(rank=0, alpha=1.0, targets=(), base="", digest=""),
}


def config_from_json(saved: dict | str | pathlib.Path) -> Config:
  """The `Config` of a JSON file, or of the mapping read from one; either may be older than the newest keys."""
  if not isinstance(saved, dict):
    saved = outside.read_json(saved)
  sample = {"image_shift": saved["sample"]["shift"]} | saved["sample"]  # there was one shift for both
  if isinstance(scale := sample["guidance"], float):  # it was all there was
    sample["guidance"] = {"scale": scale}
  return configs.from_config_dict(completed(saved | {"sample": sample}))


def completed(saved: dict, later: dict = CAME_LATER) -> dict:
  """`saved`, nested dicts, with those keys of `later` that it lacks, at any depth."""
  return later | {key: completed(value, later[key]) if isinstance(value, dict) and isinstance(later.get(key), dict) else value
                  for key, value in saved.items()}


def architecture(saved: dict) -> dict[str, object]:
  """What decides the shapes in a train state, of a config as nested dicts: "model.depths.dual" -> value."""
  aligned = saved["alignment"]["weight"] > 0
  adapter_keys = ("rank", "alpha", "targets", "digest") if saved["adapter"]["rank"] else ("rank",)
  parts = {
      "model": {k: v for k, v in saved["model"].items() if k not in RUN_TIME},
      "alignment": {"on": aligned} | ({k: saved["alignment"][k] for k in ("teacher_dim", "hidden")} if aligned else {}),
      "optimizer": {"kind": saved["optimizer"]["kind"]},
      "adapter": {k: v for k, v in saved["adapter"].items() if k in adapter_keys},
  }
  return flatten_dict(parts, sep=".")


def differences(saved: dict, cfg: Config, *, weights_alone: bool = False) -> list[str]:
  """A line for each field of the architecture in which `saved`, a config as JSON has it, differs from `cfg`."""
  ours = architecture(json.loads(json.dumps(configs.to_dict(cfg))))  # through JSON, which turns tuples into lists
  theirs = architecture(completed(saved))
  names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
  if weights_alone:
    names = [name for name in names if name.startswith("model.")]
  return [f"  - {name}: {theirs.get(name)} in the checkpoint, {ours.get(name)} in the config" for name in names]
