"""Eight virtual CPU devices and quick compilation for every test, set before jax starts; what CI's second interpreter leaves out."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

import pytest

_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # Tests spend their time compiling, and none is about speed.
    "--xla_backend_optimization_level": "0",
}
# It halves what is left.  jax 0.11 has not got the flag any more, but an option of XLA's CPU compiler.
if importlib.metadata.version("jax").startswith("0.10."):
  _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
else:
  _FLAGS["--xla_backend_extra_options"] = "xla_cpu_disable_new_fusion_emitters"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([_given, *(f"{flag}={value}" for flag, value in _FLAGS.items() if flag not in _given)]).strip()

os.environ["MOTIF_JAX_CACHE"] = _cache = tempfile.mkdtemp(prefix="motif_jax")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)

# What is compiled once is compiled for the whole run: pytest-xdist's processes and all that tests start inherit the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled = tempfile.mkdtemp(prefix="motif_jax_compiled")
  os.environ.update(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)

from motif_jax import program_files  # after the variables: nothing that imports jax may come before them

program_files.keep_whole()
gc.set_threshold(50_000, 20, 50)  # tracing makes many objects and hardly a cycle: collecting them took an eighth of test_train

# CI's first interpreter runs everything, its second all but these: there another case of the same claim is enough to tell that
# another jax keeps it.  Part of a test's name -> why.
FIRST_ONLY = {
    "test_notebooks.py::test_a_notebook_shows_what_it_promises": "the cells call what other tests call on both",
    "test_multiprocess.py::test_several_processes_take_the_step_of_one[4-": "two processes are several; four take long to start",
    **{f"test_parallel.py::test_a_step_on_any_mesh_is_that_of_one_device[{sizes}]": "the meshes that mix axes are enough"
       for sizes in ((1, 1, 6), (1, 1, 8), (1, 8, 1), (8, 1, 1))},
    "test_train.py::test_loss_gradients_and_state_agree_with_one_device[(1, 8, 1)]":
        "the other mesh, which resuming takes too, is enough",
    "test_accumulation.py::test_microbatches_change_neither_loss_nor_gradients_nor_state[4-(1, 2, 4)]":
        "a mesh of all axes is enough",
    **{f"test_remat.py::test_{claim}": "of the policies, the one that the recipe uses is enough"
       for claim in ("loss_and_every_gradient_are_those_without_rematerialisation[attention]",
                     "loss_and_every_gradient_are_those_without_rematerialisation[offload]",
                     "memory_falls_in_the_order_of_the_policies")},
    **{f"test_budget.py::test_{claim}[{case}]": "our closed forms; two cases tell whether a compiler plans otherwise"
       for claim in ("executed_flops_are_the_products_of_the_compiled_gradient", "bytes_are_those_that_xla_plans")
       for case in ("none", "block", "offload", "none, chunked", "attention", "block, chunked", "adapter", "from pictures")},
    "test_launch_plan.py::test_every_message_of_a_cut_sequence_is_foretold[block]":
        "the other policy sends the same kinds of messages",
    "test_launch_plan.py::test_the_release_s_blocks_on_eight_devices": "test_budget and the messages hold the same closed forms",
}


def pytest_addoption(parser):
  parser.addoption("--second", action="store_true", help="leave out what CI's second interpreter need not repeat")


def pytest_collection_modifyitems(config, items):
  if config.getoption("--second"):
    for item in items:
      for why in [why for name, why in FIRST_ONLY.items() if name in item.nodeid]:
        item.add_marker(pytest.mark.skip(reason=f"first interpreter only: {why}"))
