"""The architecture of a config as a picture, in SVG, made from the plan of its first training step:

  python -m launch.diagram --config=configs/motif_2b.py --config.route.keep=0.5 --config.alignment.weight=0.5 \\
    --output=docs/architecture.svg

What is off in the config is not drawn; in the release routing and alignment are, until a stage of the recipe turns them on.
"""

import pathlib
import sys

from absl import app, flags
import jax
from ml_collections import config_flags

from launch import arguments
from motif_jax import config, diagram
from motif_jax.data import videos
from motif_jax.encoders import registry

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/; --config.a.b=value changes one key of it.")
RELEASED = (4, 8, 8)  # strides of the codec that the released model was trained with
OUTPUT = flags.DEFINE_string("output", None, "The SVG file to write.")


def main(argv: list[str]) -> None:
  jax.config.update("jax_platforms", "cpu")
  try:
    arguments.check_no_others(argv)
    cfg = config.from_config_dict(CONFIG.value)
    codec, *_ = registry.announced(cfg.encoders)
    own = codec and codec.channels == cfg.model.latent_channels  # as launch.plan: else the config names none of its own
    picture = diagram.svg(cfg, codec.strides if own else RELEASED)
    with videos.replacing(pathlib.Path(OUTPUT.value)) as temporary:
      temporary.write_text(picture)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(OUTPUT.value)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "output"])
  app.run(main, flags_parser=arguments.parse)
