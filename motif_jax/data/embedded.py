"""The embedded data sets by name: each with `combinations`, `caption_long`, `captions`, `render` and `write_folder`; their judges
stand in `evaluate/benchmarks.py`."""

from motif_jax.data import scenes, shapes

SETS = {"shapes": shapes, "scenes": scenes}
