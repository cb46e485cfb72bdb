"""The agent with the tests' HostRuntime in the place of a container command: `hostserve.py serve …` or `run …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from hostruntime import HostRuntime

from airflow_prominence.agent import __main__, node, serving


def _load(name: str, engine_dir: str | None = None) -> HostRuntime:
    return HostRuntime(engine_dir or "/nonexistent")


def _chosen(options: Any, state: str) -> tuple[dict[str, str], dict[str, Any]]:
    return {"singularity": "host", "udocker": "host"}, {"host": {"version": "1", "admitted": True, "detail": ""}}


node.load = _load
serving._runtimes = _chosen
__main__.command()
