"""Eight virtual CPU devices and quick compilation for every test, set before jax starts; absl flags parsed, for grain's workers."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Optimisation level 0 halves the time to compile, which is where the tests spend their time.
for _flag, _value in (("--xla_force_host_platform_device_count", 8), ("--xla_backend_optimization_level", 0)):
  if _flag not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()

from absl import flags  # after the variables: nothing that imports jax may come before them

flags.FLAGS.mark_as_parsed()
