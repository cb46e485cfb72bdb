"""Section ``[prominence]`` of Airflow's configuration: how its options are read, and what several layers need of it."""

from __future__ import annotations

import math
import os

from airflow.configuration import AIRFLOW_HOME, conf

SECTION = "prominence"
INTERNAL_PREFIX = "/prominence/internal/v1"


def text(option: str, default: str) -> str:
    """Return an option; one that is set but empty counts as not set."""
    return conf.get(SECTION, option, fallback=default) or default


def number(option: str, default: int) -> int:
    """Return an option as a whole number."""
    return conf.getint(SECTION, option, fallback=default)


def days(option: str, default: float) -> float:
    """Return an option as a number of days that is not negative."""
    return _time(option, default, "days")


def hours(option: str, default: float) -> float:
    """Return an option as a number of hours that is not negative."""
    return _time(option, default, "hours")


def _time(option: str, default: float, unit: str) -> float:
    found: float = conf.getfloat(SECTION, option, fallback=default)
    if not 0 <= found < math.inf:
        raise ValueError(f"[{SECTION}] {option}: must be a number of {unit}, or 0")
    return found


def secret() -> str:
    """Return the deployment's secret from which every key is derived."""
    return text("internal_secret", "") or conf.get("api_auth", "jwt_secret", fallback="") or ""


def base_url() -> str:
    """Return the API server's address, without a slash at its end."""
    return (conf.get("api", "base_url", fallback="") or "http://localhost:8080").rstrip("/")


def prefixes() -> tuple[str, ...]:
    """Return the paths under which the REST interface is served, the one that users are told first."""
    listed = (part.strip().rstrip("/") for part in text("api_prefixes", "/api/v1,/prominence/v1").split(","))
    return tuple(prefix for prefix in listed if prefix)


def public_url() -> str:
    """Return the address of the REST interface as users reach it."""
    return text("public_url", "").rstrip("/") or base_url() + prefixes()[0]


def node_url() -> str:
    """Return the address of the REST interface as nodes and jobs reach it."""
    return text("node_url", "").rstrip("/") or public_url()


def internal_url() -> str:
    """Return the address of the internal routes."""
    return text("internal_url", "").rstrip("/") or base_url() + INTERNAL_PREFIX


def documents_folder() -> str:
    """Return the folder whose JSON and YAML files become DAGs."""
    return text("documents_folder", "") or os.path.join(AIRFLOW_HOME, "documents")
