#!/usr/bin/env bash
# Sets up, then runs all tests on CPU: on the default python3 with live parity against torch, then, where a Python 3.12 exists,
# again there without torch and without what tests/conftest.py names.  Arguments go to pytest, for example:
# bash launch/test.sh tests/test_plan.py
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

# Programs of a name may be there and not run (a version manager's stand-ins), so each candidate is tried.
find_python312() {
  local candidate
  for candidate in "$(command -v python3.12)" "$(pyenv root 2>/dev/null)"/versions/3.12*/bin/python3.12; do
    if [ -x "$candidate" ] && "$candidate" -c '' 2>/dev/null; then echo "$candidate"; return; fi
  done
}

# Files are dealt to processes whole, so that what a file prepares is prepared once; in the order of their names, because a file's
# number of tests, which pytest-xdist would go by, says little about its time, and the longest came last.
run_tests() {
  "$RUN_PYTHON" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
}

export JAX_PLATFORMS=cpu
setup "${PYTHON:-python3}" .venv requirements-test.txt
run_tests "$@"

version=$("$RUN_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python312=$(find_python312 || true)
if [ "$version" != 3.12 ] && [ -n "$python312" ]; then
  setup "$python312" .venv312 requirements-test.txt
  run_tests --second "$@"
fi
