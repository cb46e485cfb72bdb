#!/bin/bash
# Resolves constraints.txt anew: versions only, for every supported Python.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install -q uv
made=$(mktemp)
trap 'rm -f "$made"' EXIT
.venv/bin/uv pip compile pyproject.toml --extra standalone --extra dev --universal --python-version 3.10 \
    --upgrade --no-header --no-annotate --quiet --output-file "$made" >/dev/null
{
    echo "# The whole closure of airflow-prominence[standalone,dev], for Python 3.10 to 3.13 on Linux. Versions only."
    echo "# Made anew by \`make constraints\`."
    grep -v "sys_platform == 'win32'" "$made"
} >constraints.txt
