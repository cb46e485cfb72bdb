"""Makes the agent one file: a zip that any Python 3.8 or later runs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipapp

PACKAGE = "prominence_agent"


def _left_out(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.endswith(".pyc")}


def build_pyz(path: str) -> str:
    """Write the agent to `path`, whole or not at all."""
    with tempfile.TemporaryDirectory() as work:
        tree = os.path.join(work, "tree")
        shutil.copytree(os.path.dirname(os.path.abspath(__file__)), os.path.join(tree, PACKAGE), ignore=_left_out)
        partial = path + ".part"
        zipapp.create_archive(
            tree, partial, interpreter="/usr/bin/env python3", main=PACKAGE + ".__main__:command", compressed=True
        )
    os.replace(partial, path)
    return path


if __name__ == "__main__":
    print(build_pyz(sys.argv[1]))
