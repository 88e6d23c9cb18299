"""How the commands read their flags: mistakes get one line, and libraries stay quiet."""

import sys

from absl import app, logging


def parse(argv: list[str]) -> list[str]:
  """The arguments that are no flags; exits with one line where the flags are wrong."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as e:  # of a config key, or a section, that does not exist; the message comes quoted
    said = str(e.args[0]).replace("\\n", "\n").replace("\\'", "'")
    sys.exit("error: no such config key: " + ". ".join(said.replace("'", "").splitlines()))
  except (OSError, TypeError, ValueError) as e:
    sys.exit(f"error: {e}")


def check_no_others(argv: list[str]) -> None:
  """Raises ValueError if arguments are left that are no flags."""
  if argv[1:]:
    raise ValueError(f"unknown arguments {' '.join(argv[1:])}; write --flag=value.")


def quiet() -> None:
  """Keeps orbax and its like, which tell of every step of a save, to errors."""
  logging.set_verbosity(logging.ERROR)
