"""Trains a model: python -m launch.train --config=configs/smoke.py --workdir=DIR [--config.train.steps=100 ...]

Goes on from the newest checkpoint in the work directory.  TensorBoard reads the same directory.  Control-C saves and leaves.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from motif_jax import config
from motif_jax.train import loop

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/; --config.a.b=value changes one key of it.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and TensorBoard files go.")


def parse(argv: list[str]) -> list[str]:
  """The arguments that are no flags; exits with one line where the flags are wrong."""
  try:
    return app.parse_flags_with_usage(argv)
  except AttributeError as e:  # of a config key that does not exist
    sys.exit("error: no such config key: " + str(e).strip("'").replace("\\'", "'").replace("\\n", " "))
  except (OSError, TypeError, ValueError) as e:
    sys.exit(f"error: {e}")


def main(argv: list[str]) -> None:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # orbax tells of every step of a save; --verbosity=0 lets it
  try:
    if argv[1:]:
      raise ValueError(f"unknown arguments {' '.join(argv[1:])}; write --flag=value.")
    job = loop.prepare(config.from_config_dict(CONFIG.value), WORKDIR.value)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  loop.run(job)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=parse)
