"""The embedded benchmarks by name: each a judge with `held_out_prompts`, `score` and `CHANCE`."""

from motif_jax.evaluate import scenes, shapes

BENCHMARKS = {"shapes": shapes, "scenes": scenes}
