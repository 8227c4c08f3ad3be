# Where things are. Every script sources this, so that all of them build, run and test the same binary.
#
# After it: ROSTER_ROOT (the checkout), ROSTER_CACHE (what outlives a checkout), CARGO_TARGET_DIR, ROSTER_BIN (the
# built binary's link in the checkout), ROSTER_VENV and ROSTER_PYTHON (the tests' Python).

ROSTER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
ROSTER_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/roster

# Outside the checkout: RocksDB's C++ takes some 14 minutes on two cores, and a fresh clone should not pay for it again.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${ROSTER_TARGET_DIR:-$ROSTER_CACHE/target}}

# rustup puts cargo here; a shell that was open while it was installed does not know yet.
case ":$PATH:" in
  *":$HOME/.cargo/bin:"*) ;;
  *) PATH=$PATH:$HOME/.cargo/bin ;;
esac

ROSTER_BIN=${ROSTER_BIN:-$ROSTER_ROOT/bin/roster}
ROSTER_VENV=$ROSTER_CACHE/python
ROSTER_PYTHON=$ROSTER_VENV/bin/python

export PATH ROSTER_ROOT ROSTER_CACHE ROSTER_BIN ROSTER_VENV ROSTER_PYTHON
