# Sourced by demo.sh and test.sh: makes the virtual environment VENV from PYTHON and REQUIREMENTS, once, and again only when
# the pins have changed.  Sets RUN_PYTHON to its interpreter.
# On a CPU, XLA gives the memory of a step back and gets it again, page by page; in huge pages the demo takes 1.4 times
# as many steps a second (docs/benchmarks.md).  An older C library than glibc 2.35, or another, does not read it.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

setup() {  # setup PYTHON VENV REQUIREMENTS
  local python=$1 venv=$2 requirements=$3
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed; '$python' is $("$python" --version 2>&1 || echo missing). Set PYTHON=/path/to/python3.11." >&2
    return 1
  fi
  local stamp
  stamp=$(cat requirements*.txt | sha256sum | cut -c1-16)-$requirements
  if [ ! -f "$venv/$stamp" ]; then
    echo "== setting up $venv from $requirements ($("$python" --version)); a few minutes, once"
    "$python" -m venv "$venv" || return 1
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --compile -r "$requirements" || return 1
    touch "$venv/$stamp"
  fi
  RUN_PYTHON=$venv/bin/python
}
