# Sourced before training on H100 or H200 nodes (. launch/gpu_env.sh): settings of XLA, jax and NCCL, each with its reason.
# What is already set stays as it is.  jaxlib 0.10.2 and 0.11.2 know every flag below (a test starts jax with them; XLA ends a
# program that names an unknown one).  None of it has been measured with this model yet.

_xla() {  # _xla FLAG VALUE
  case " ${XLA_FLAGS:-} " in *" --$1="*) ;; *) export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--$1=$2" ;; esac
}

# Starts collectives early and waits for them late: gathers of the next weights run under matmuls.  Off by default.
_xla xla_gpu_enable_latency_hiding_scheduler true
# A step that hangs (a dead node, a stuck collective) would hold its GPUs for ever: end the process, so that a scheduler can start
# it again from its checkpoint.  Longer than any step, short against a night, and longer than train.stall_seconds: the watchdog of
# `launch.train` comes first and prints where each thread is; these are for where it cannot, in a start or another program.
_xla xla_gpu_execution_terminate_timeout 30m
# The same where processes meet to set up a communicator; by default they wait without end.
_xla xla_gpu_nccl_termination_timeout_seconds 1800
# An error of NCCL, such as a peer that died, ends the process, and does not leave it waiting for the others.
_xla xla_gpu_nccl_terminate_on_error true
# The devices of a process wait for each other at their first collective: 40 s by default, and a slow start on a busy file system
# would kill the run.
_xla xla_gpu_first_collective_call_terminate_timeout_seconds 600
unset -f _xla

# jax takes 75 % of the memory by default, and 35 GB of an H200 would lie idle.  The rest is for cuDNN, cuBLAS and NCCL.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
# Compiled programs and autotuning results, kept: a run that resumes compiles nothing.  One file system for all processes.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/xla}"
# Small programs too: a start compiles dozens of them.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.1}"
# One line where a link or a network card fails, instead of silence.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

# Left alone on purpose: NCCL chooses its algorithms (ring, tree, NVLink SHARP) better than a list that grows old; the sizes below
# which XLA combines collectives (xla_gpu_*_combine_threshold_bytes), Triton matmuls (xla_gpu_triton_gemm_any) and pipelined
# collectives are to be measured first; xla_gpu_exclude_nondeterministic_ops makes runs repeat to the bit, and slower.
