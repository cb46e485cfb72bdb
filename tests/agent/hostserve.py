"""The agent with the tests' HostRuntime in the place of a container command: `hostserve.py serve …` or `run …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from airflow_prominence.agent import __main__, node, serving
from airflow_prominence.agent.storage import mount
from tests.agent.hostruntime import HostRuntime


def _load(name: str, engine_dir: str | None = None) -> HostRuntime:
    return HostRuntime(engine_dir or "/nonexistent")


def _chosen(options: Any, state: str) -> tuple[dict[str, str], dict[str, Any]]:
    return {"singularity": "host", "udocker": "host"}, {"host": {"version": "1", "admitted": True, "detail": ""}}


mount.STALLED_S = 3.0  # nobody waits a minute for a server that a test has ended
setattr(node, "load", _load)  # noqa: B010 - a replacement, not the attribute's own type
setattr(serving, "_runtimes", _chosen)  # noqa: B010
__main__.command()
