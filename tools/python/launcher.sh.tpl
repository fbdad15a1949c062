#!/usr/bin/env bash
# Runs one Python program on the locked packages; py_binary and py_test fill it in.
set -eu
runfiles="${RUNFILES_DIR:-${TEST_SRCDIR:-$0.runfiles}}"
export RUNFILES_DIR="$runfiles"
root="$runfiles/%{workspace}"

python="$(cat "$root/%{python_path}")"
if ! [ -x "$python" ]; then
  echo "The Python that this was set up with is gone: $python" >&2
  echo "Set it up again with: bazel clean --expunge" >&2
  exit 1
fi

# The program's own Python sees the sources and the locked packages, and
# nothing that the user happens to have installed.
export PYTHONPATH="$root"
for site in %{site_paths}; do
  PYTHONPATH="$PYTHONPATH:$(cat "$root/$site")"
done
export PYTHONNOUSERSITE=1

# A test may write to its own directory only. Libraries that keep caches and
# settings at home are sent there.
if [ -n "${TEST_TMPDIR:-}" ]; then
  export HOME="$TEST_TMPDIR" PYTHONDONTWRITEBYTECODE=1
  export XDG_CACHE_HOME="$HOME/.cache" XDG_CONFIG_HOME="$HOME/.config" MPLCONFIGDIR="$HOME/matplotlib"
  export IPYTHONDIR="$HOME/ipython" JUPYTER_CONFIG_DIR="$HOME/jupyter" JUPYTER_DATA_DIR="$HOME/jupyter"
  export JUPYTER_RUNTIME_DIR="$HOME/jupyter/runtime" MPLBACKEND=agg
fi
%{env}
# -P keeps the program's own directory off sys.path, where its neighbours could
# shadow a package.
exec "$python" -P "$root/%{main}"%{args} "$@"
