"""The released configuration counts as published, and has exactly the published names and shapes; without any memory."""

import ast
import dataclasses
import math
import pathlib

import jax
import numpy as np
import pytest

from configs import motif_2b
from motif_jax import config
from motif_jax.model import transformer
from motif_jax.weights import names
from tests.sensitive import sensitive

RELEASED = config.from_config_dict(motif_2b.get_config()).model
LAYOUTS = {
    "shared": RELEASED.cross_attention,
    "separate": config.CrossAttentionConfig("separate", "none", False),
    "none": config.CrossAttentionConfig("none", "none", False),
}


def small(layout):
  """A tiny model of a layout, all of whose sizes differ, and parameters for it."""
  cfg = dataclasses.replace(
      RELEASED, cross_attention=LAYOUTS[layout], width=24, heads=2, depths=config.Depths(2, 3, 4), text_dim=5, image_dim=7,
      rope_axes=(4, 4, 4), latent_channels=3)
  return cfg, sensitive(jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0)), 0)


def sizes(shapes):
  return sum(map(math.prod, shapes.values()))


@pytest.mark.parametrize("layout, count", [("shared", 1_962_308_032), ("separate", 2_037_809_600), ("none", 1_886_712_256)])
def test_the_released_model_has_the_published_number_of_parameters(layout, count):
  cfg = dataclasses.replace(RELEASED, cross_attention=LAYOUTS[layout])
  assert sizes(names.our_shapes(cfg)) == count


def test_each_part_has_its_share():
  """model.md section 0."""
  shapes = names.our_shapes(dataclasses.replace(RELEASED, cross_attention=LAYOUTS["separate"]))
  part = lambda *prefixes: sizes({path: shape for path, shape in shapes.items() if path.startswith(prefixes)})
  assert part("video_embed") == 204_288
  assert part("text_embed") == 6_294_528
  assert part("image_embed") == 3_104_640
  assert part("time_embed") == 2_755_584
  assert part("dual") == 1_019_774_976
  assert part("single/cross") == 151_097_344
  assert part("single/cross/key/", "single/cross/value/") == 75_546_624
  assert part("single") - part("single/cross") == 566_505_472
  assert part("decoder") == 283_252_736
  assert part("output") == 4_721_664 + 98_368


def test_names_and_shapes_are_the_published_ones():
  """All 902 of `transformer_keys.txt`: lines of name and shape, the diffusers layout of the release."""
  lines = (pathlib.Path(__file__).parent / "parity" / "transformer_keys.txt").read_text().splitlines()
  published = {name: ast.literal_eval(shape) for name, shape in (line.split(" ", 1) for line in lines)}
  assert len(published) == 902
  assert names.their_shapes(dataclasses.replace(RELEASED, cross_attention=LAYOUTS["separate"])) == published


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_table_names_every_parameter_once(layout, dual):
  cfg = dataclasses.replace(RELEASED, cross_attention=dataclasses.replace(LAYOUTS[layout], dual=dual))
  assert sorted(row.ours for row in names.table(cfg).rows) == sorted(names.our_shapes(cfg))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_renaming_there_and_back_changes_nothing(layout):
  cfg, params = small(layout)
  theirs = names.to_theirs(params, cfg)
  back = names.to_ours(theirs, cfg)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  assert sum(value.size for value in theirs.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))


WRONG = {  # what is done to a checkpoint -> what is said about it
    "missing": (lambda theirs: theirs.pop("proj_out.bias"), "1 tensors are missing: proj_out.bias"),
    "unused": (lambda theirs: theirs.update(pos_embed=np.zeros(3)), "1 are not used: pos_embed"),
    "misshaped": (lambda theirs: theirs.update({"x_embedder.proj.bias": np.zeros(23)}),
                  "x_embedder.proj.bias is (23,), expected (24,)"),
}


@pytest.mark.parametrize("faults", [["missing"], ["unused"], ["misshaped"], list(WRONG)], ids=" ".join)
def test_a_wrong_checkpoint_is_told_all_that_is_wrong_at_once(faults):
  cfg, params = small("separate")
  theirs = names.to_theirs(params, cfg)
  for fault in faults:
    WRONG[fault][0](theirs)
  with pytest.raises(ValueError) as caught:
    names.to_ours(theirs, cfg)
  assert all(WRONG[fault][1] in str(caught.value) for fault in faults)
