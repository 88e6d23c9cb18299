"""Claims about launch/gpu_env.sh: the installed jaxlib knows its flags, and it overrides nobody."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
START = f'{sys.executable} -c "import jax, os; jax.devices(); print(os.environ[\'XLA_FLAGS\'], os.environ[\'NCCL_DEBUG\'])"'


def _run(command, **environment):
  environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NCCL_DEBUG")} | {"JAX_PLATFORMS": "cpu"} | environment
  return subprocess.run(["bash", "-euc", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_jax_starts_with_the_flags_and_keeps_what_was_set():
  done = _run(f". launch/gpu_env.sh; {START}", XLA_FLAGS="--xla_gpu_execution_terminate_timeout=2h", NCCL_DEBUG="INFO")
  assert done.returncode == 0, done.stderr[:500]
  assert done.stdout.split()[0] == "--xla_gpu_execution_terminate_timeout=2h" and done.stdout.split()[-1] == "INFO"
  assert "--xla_gpu_enable_latency_hiding_scheduler=true" in done.stdout and "timeout=30m" not in done.stdout


def test_an_unknown_flag_would_be_noticed():
  assert _run(START, XLA_FLAGS="--xla_gpu_no_such_flag=true", NCCL_DEBUG="").returncode != 0
