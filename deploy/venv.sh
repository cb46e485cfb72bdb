#!/bin/bash
# Makes .venv with the pinned versions: deploy/venv.sh EXTRAS (such as standalone or standalone,dev).
# Does nothing when it was made for these versions already. PYTHON names the Python to use, else it is the first that fits.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=$1

fail() {
    echo "$*" >&2
    exit 1
}

fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: there is no such program."
        fits "$PYTHON" || fail "PYTHON=$PYTHON: this is no Python 3.10 to 3.13 that starts."
        command -v "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$name" >/dev/null && fits "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "No Python 3.10 to 3.13 found: install one (Debian, Ubuntu: apt-get install python3 python3-venv) or set PYTHON=/path/to/it."
}

# Whether `python -m venv` will bring pip (Debian splits ensurepip off).
has_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

where() { # a Python's own place, by which one knows what .venv was made with
    "$1" -c 'import os, sys; print(os.path.realpath(sys.base_prefix), sys.version)'
}

stamp() { # of a set of extras
    { echo "$1"; cat pyproject.toml constraints.txt; } | sha256sum | cut -d' ' -f1
}

remove_venv() { # and first the stack that runs from it
    if [ -d "${HOME_DIR:-.demo}" ] && [ -x .venv/bin/python ]; then
        .venv/bin/python -m airflow_prominence.standalone stop --home "${HOME_DIR:-.demo}" || true
    fi
    rm -rf .venv
}

python=
if [ -n "${PYTHON:-}" ]; then
    python=$(find_python)
    if [ -x .venv/bin/python ] && [ "$(where .venv/bin/python)" != "$(where "$python")" ]; then
        remove_venv
    fi
elif [ -x .venv/bin/python ] && ! fits .venv/bin/python; then
    rm -rf .venv # its Python was removed or is too old
fi
if [ -x .venv/bin/python ] && grep -qsx "$(stamp "$extras")" .venv/.installed; then
    exit 0
fi

if [ ! -x .venv/bin/python ] || [ ! -x .venv/bin/pip ]; then
    python=${python:-$(find_python)}
    if ! has_venv "$python"; then
        package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            echo "Installing $package with apt-get ..."
            { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$package"; } >/dev/null ||
                fail "apt-get could not install $package: install it by hand."
        else
            fail "$python has no venv module: install it (Debian, Ubuntu: apt-get install $package)."
        fi
    fi
    echo "Making .venv with $("$python" --version) ($python)"
    rm -rf .venv
    "$python" -m venv .venv
fi

began=$SECONDS
log=.venv/install.log
wanted=$(grep -c '^[a-z]' constraints.txt)
echo "Installing the pinned packages into .venv (one to three minutes the first time) ..."

progress() { # what pip is at, in words
    if grep -q '^Installing collected packages' "$log"; then
        echo "unpacking them"
    else
        echo "$(grep -c '^Collecting' "$log") of at most $wanted packages found and downloaded"
    fi
}

# Compiled afterwards, on all cores at once: else each process of the first start would do it.
.venv/bin/python -m pip install --disable-pip-version-check --no-compile --progress-bar off -c constraints.txt \
    -e ".[$extras]" >"$log" 2>&1 &
pip=$!
trap 'kill "$pip" 2>/dev/null || true' INT TERM
while kill -0 "$pip" 2>/dev/null; do
    sleep 1
    passed=$((SECONDS - began))
    if [ $((passed % 10)) = 0 ]; then
        echo "  ... $passed s: $(progress)"
    fi
done
wait "$pip" || {
    grep '^ERROR' "$log" >&2 || tail -n 5 "$log" >&2
    fail "pip could not install the packages: see $log."
}
echo "  ... $((SECONDS - began)) s: compiling them"
.venv/bin/python -m compileall -q -j 0 .venv/lib airflow_prominence >/dev/null 2>&1 || true
{
    stamp "$extras"
    stamp "${extras%%,*}" # what has more has this too
} >.venv/.installed
echo "Installed in $((SECONDS - began)) s."
