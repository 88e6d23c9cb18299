"""Configs on images that lack ml_collections: a stand-in for its `ConfigDict`, and --config.a.b=value flags without its parser.

The stand-in has all that the files in `configs/` ask of one, and no more; `configs/base.py` takes it where ml_collections is not
installed, so that benches and profiles run on a bare GPU image.  Nothing is locked: what is wrong with the keys or types is said
by `config.from_config_dict`, as ever.
"""

import ast


class ConfigDict(dict):
  """A dict whose keys are attributes too, down through nested dicts."""

  def __init__(self, values=()):
    super().__init__()
    for key, value in dict(values).items():
      self[key] = value

  def __setitem__(self, key, value):
    super().__setitem__(key, ConfigDict(value) if isinstance(value, dict) else value)

  def __getattr__(self, key):
    try:
      return self[key]
    except KeyError:
      raise AttributeError(f"{key!r} is not a config key here; known keys: {', '.join(self)}.") from None

  __setattr__ = __setitem__

  def update(self, values):
    """Sets the keys of `values`; sections in it change single keys of the section that is there."""
    for key, value in values.items():
      if isinstance(value, dict) and isinstance(self.get(key), ConfigDict):
        self[key].update(value)
      else:
        self[key] = value


def change(c, path: str, text: str) -> None:
  """Sets the key `path`, such as "model.width", of a ConfigDict of either kind to what a flag says: a Python literal, or text."""
  *sections, key = path.split(".")
  section = c
  for name in sections:
    section = section[name] if name in section else {}
  if key not in section:
    raise ValueError(f"no such config key: {path}; configs/base.py has them all.")
  try:
    value = ast.literal_eval(text)
  except (SyntaxError, ValueError):
    value = text
  try:
    section[key] = value
  except TypeError as e:  # ml_collections keeps the type of a key
    raise ValueError(f"--config.{path}={text}: {e}") from e
