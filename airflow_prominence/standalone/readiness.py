"""Whether the stack's parts do their work, asked as a user would."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

_UNREACHABLE = (OSError, urllib.error.URLError, http.client.HTTPException)
# Never by a proxy, whatever the caller's environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    """Whether a GET is answered well."""
    try:
        with _OPENER.open(url, timeout=5) as response:
            return 200 <= int(response.status) < 300
    except _UNREACHABLE:
        return False


def healthy(base: str) -> bool:
    """Whether Airflow itself says that its components' heartbeats are recent."""
    try:
        with _OPENER.open(base + "/api/v2/monitor/health", timeout=5) as response:
            health: dict[str, Any] = json.load(response)
    except (*_UNREACHABLE, json.JSONDecodeError):
        return False
    names = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return all((health.get(name) or {}).get("status") == "healthy" for name in names)
