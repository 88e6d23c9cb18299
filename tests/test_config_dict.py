"""Claims about the stand-in for ConfigDict: on an image without ml_collections every config is the same."""

import importlib
import sys

import pytest

from motif_jax import config
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
