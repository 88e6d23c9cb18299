"""Claims about configs on an image without ml_collections: every config is the same, and flags change the same keys."""

import importlib
import sys

import ml_collections
import pytest

from motif_jax import config, config_dict
from motif_jax.config_dict import ConfigDict
from tests.test_config import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_the_same_without_ml_collections(monkeypatch, name):
  expected = config.from_config_dict(importlib.import_module(f"configs.{name}").get_config())
  for module in [m for m in sys.modules if m.startswith("configs")]:
    monkeypatch.delitem(sys.modules, module)
  monkeypatch.setitem(sys.modules, "ml_collections", None)
  got = importlib.import_module(f"configs.{name}").get_config()
  assert type(got) is ConfigDict and config.from_config_dict(got) == expected


def test_update_changes_single_keys_of_a_section():
  c = ConfigDict(dict(a=dict(b=1, c=2), d=3))
  c.update(dict(a=dict(c=5), e=dict(f=6)))
  assert c == dict(a=dict(b=1, c=5), d=3, e=dict(f=6)) and c.a.c == 5 and c.e.f == 6


def test_a_key_that_is_not_there_is_told_the_known_ones():
  with pytest.raises(AttributeError, match="'widht' is not a config key here; known keys: width"):
    ConfigDict(dict(width=3)).widht


@pytest.mark.parametrize("kind", [ConfigDict, ml_collections.ConfigDict])
def test_a_flag_changes_one_key_of_either_kind(kind):
  c = kind(dict(model=dict(width=16, kind="a", depths=dict(dual=1))))
  for path, text in (("model.width", "32"), ("model.depths.dual", "2"), ("model.kind", "plain text")):
    config_dict.change(c, path, text)
  assert (c.model.width, c.model.depths.dual, c.model.kind) == (32, 2, "plain text")
  for path in ("model.widht", "modl.width", "width"):
    with pytest.raises(ValueError, match=f"no such config key: {path}"):
      config_dict.change(c, path, "3")
  assert set(c) == {"model"} and set(c.model) == {"width", "kind", "depths"}  # nothing was added
