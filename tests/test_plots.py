"""Pictures of curves."""

import numpy as np
import pytest
from PIL import Image

from motif_jax.evaluate import plots


def test_a_picture_has_a_place_for_each_panel(tmp_path):
  panel = plots.Panel("loss", "step", "loss", {"a": ([1, 2, 3], [3.0, 2.0, 1.0]), "b": ([1, 2], [2.0, 2.0], [0.1, 0.2])}, log_y=True)
  plots.draw(tmp_path / "one.png", [panel])
  plots.draw(tmp_path / "four.png", [panel] * 4)
  one, four = (Image.open(tmp_path / name) for name in ("one.png", "four.png"))
  assert four.size == (3 * one.size[0], 2 * one.size[1])
  assert len(np.unique(np.asarray(one.convert("L")))) > 10  # something is drawn


def test_what_cannot_be_drawn_leaves_no_file(tmp_path):
  with pytest.raises(ValueError):
    plots.draw(tmp_path / "bad.png", [plots.Panel("t", "x", "y", {"a": ([1, 2], [1.0])})])
  assert not list(tmp_path.iterdir())
