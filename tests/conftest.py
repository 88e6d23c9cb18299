"""Eight virtual CPU devices and quick compilation for every test, set before jax starts; absl flags parsed, for grain's workers."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # Tests spend their time compiling, and none is about speed.
    "--xla_backend_optimization_level": "0",
}
if importlib.metadata.version("jax").startswith("0.10."):  # the flag is gone from jax 0.11; here it halves what is left
  _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([_given, *(f"{flag}={value}" for flag, value in _FLAGS.items() if flag not in _given)]).strip()

os.environ["MOTIF_JAX_CACHE"] = _cache = tempfile.mkdtemp(prefix="motif_jax")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)

from absl import flags  # after the variables: nothing that imports jax may come before them

flags.FLAGS.mark_as_parsed()
