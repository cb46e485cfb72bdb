"""The file that a user's shell sources: the stack's addresses and tokens, and the client on the path."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from airflow_prominence.standalone.places import Places

_CLIENT = "prominence"


def link_client(places: Places) -> Path:
    """A folder with the client alone: a whole virtual environment on the path would hide the user's own programs."""
    link = places.programs / _CLIENT
    target = Path(sys.executable).with_name(_CLIENT)
    if not link.is_symlink() or Path(os.readlink(link)) != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return places.programs


def text(values: Mapping[str, str], programs: Path) -> str:
    lines = [f"export {name}='{value}'" for name, value in values.items()]
    path = str(programs).replace("'", "'\\''")
    lines.append(f"""case ":$PATH:" in *':{path}:'*) ;; *) export PATH='{path}'":$PATH" ;; esac""")
    return "\n".join(lines) + "\n"
