"""The picture of the architecture: what it shows is what the config makes."""

import pathlib
import re
from xml.etree import ElementTree

import pytest

from configs import motif_2b
from motif_jax import config, diagram

ROOT = pathlib.Path(__file__).parent.parent
STRIDES = (4, 8, 8)


def drawn(change=lambda c: None):
  c = motif_2b.get_config()
  change(c)
  return diagram.svg(config.from_config_dict(c), STRIDES)


def texts(svg):
  return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def narrow(c):
  c.model.depths = dict(dual=2, single=5, decoder=3)


def test_the_committed_picture_is_that_of_the_2b_model():
  want = drawn(lambda c: (c.route.update(keep=0.5), c.alignment.update(weight=0.5)))
  assert (ROOT / "docs" / "architecture.svg").read_text() == want, (
      "The plan, a depth or a count moved: draw it again by the command at the head of launch/diagram.py, look at it, commit it.")


def test_it_says_what_the_2b_model_counts():
  said = " ".join(texts(drawn()))
  facts = ("1,962 M parameters", "114,080 video tokens", "12 dual-stream blocks", "16 single-stream", "8 decoder", "12 heads of 128")
  assert [fact for fact in facts if fact not in said] == []


@pytest.mark.parametrize("kind, depth", [("dual", 2), ("single", 5), ("decoder", 3)])
def test_every_block_of_the_plan_gets_a_mark(kind, depth):
  shape = dict(dual=("video", 54), single=("single", 132), decoder=("decoder", 132))[kind]
  found = re.findall(r'<rect [^>]*height="(\d+)" rx="4" class="(\w+)"', drawn(narrow))
  assert found.count((str(shape[1]), shape[0])) == depth


@pytest.mark.parametrize("part, on", [
    ("token routing", lambda c: c.route.update(keep=0.25)), ("early alignment", lambda c: c.alignment.update(weight=0.5))])
def test_what_is_off_is_not_drawn(part, on):
  assert not [said for said in texts(drawn()) if part in said]
  assert [said for said in texts(drawn(on)) if part in said]


def test_a_model_without_decoder_has_no_way_around_and_no_card():
  said = " ".join(texts(drawn(lambda c: c.model.depths.update(decoder=0))))
  assert "Joint representation" in said and "Detail" not in said and "for the decoder" not in said
