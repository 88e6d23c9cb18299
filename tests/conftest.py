"""Eight virtual CPU devices for every test, set before jax starts; absl flags parsed, which grain's workers need."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()

from absl import flags  # after the variables: nothing that imports jax may come before them

flags.FLAGS.mark_as_parsed()
