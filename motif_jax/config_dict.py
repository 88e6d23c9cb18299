"""A stand-in for `ml_collections.ConfigDict` on images that lack it: all that the files in `configs/` ask of one, and no more.

`configs/base.py` takes it where ml_collections is not installed, so that benches run on a bare GPU image.  Nothing is locked:
what is wrong with the keys or types is said by `config.from_config_dict`, as ever.
"""


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
