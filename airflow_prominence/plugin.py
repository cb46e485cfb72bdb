"""Airflow's door to us: the plugin that mounts the job API in the API server."""

from __future__ import annotations

import functools
from typing import Any

from airflow.plugins_manager import AirflowPlugin


@functools.cache
def _apps() -> list[dict[str, Any]]:
    from airflow_prominence.api.app import internal_app, public_app
    from airflow_prominence.api.settings import INTERNAL_PREFIX, settings

    shared = public_app()
    mounts = [{"app": internal_app(), "url_prefix": INTERNAL_PREFIX, "name": "PROMINENCE internal"}]
    mounts += [
        {"app": shared, "url_prefix": prefix, "name": f"PROMINENCE at {prefix}"} for prefix in settings().prefixes
    ]
    return mounts


class _AppsOnDemand:
    """Builds the apps when they are asked for: every Airflow process loads its plugins, only one kind serves apps."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        return _apps()


class ProminencePlugin(AirflowPlugin):
    """Registered by the entry point ``airflow.plugins``."""

    name = "prominence"
    fastapi_apps: Any = _AppsOnDemand()
