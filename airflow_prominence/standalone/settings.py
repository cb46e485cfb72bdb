"""The settings of the one-machine stack, all by environment: nothing of the user's own Airflow leaks in or out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.secretfiles import ADMIN, USERS, Secrets

DATABASE = "airflow"
DAGS_BUNDLE = "dags-folder"
DOCUMENTS_BUNDLE = "documents"

# Not handed on: they would change what our processes import, which settings they have or where they report to.
_DROPPED = ("AIRFLOW", "PROMINENCE_", "PYTHON", "VIRTUAL_ENV", "_AIRFLOW")


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what must not reach the stack's processes."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_DROPPED)}
    programs = str(Path(sys.executable).parent)
    path = kept.get("PATH", os.defpath)
    kept["PATH"] = path if programs in path.split(os.pathsep) else programs + os.pathsep + path
    kept.setdefault("LANG", "C.UTF-8")
    kept["PYTHONUNBUFFERED"] = "1"
    # The stack talks to itself over loopback, which no proxy can reach.
    for name in ("no_proxy", "NO_PROXY"):
        kept[name] = ",".join(filter(None, [kept.get(name, ""), "127.0.0.1", "localhost"]))
    return kept


def read_overrides(path: Path) -> dict[str, str]:
    """``NAME=value`` lines of an admin's file of settings; ``#`` begins a comment line."""
    if not path.exists():
        return {}
    settings = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.startswith("AIRFLOW__"):
            raise StackError(f"{path}, line {number}: expected AIRFLOW__SECTION__OPTION=value.")
        settings[name] = value
    return settings


def base_url(ports: Mapping[str, int]) -> str:
    return f"http://127.0.0.1:{ports['api']}"


def public_url(ports: Mapping[str, int]) -> str:
    return base_url(ports) + "/api/v1"


def internal_url(ports: Mapping[str, int]) -> str:
    return base_url(ports) + "/prominence/internal/v1"


def database_url(ports: Mapping[str, int], secrets: Secrets, driver: str = "postgresql+psycopg2") -> str:
    return f"{driver}://{DATABASE}:{secrets.database_password}@127.0.0.1:{ports['database']}/{DATABASE}"


def _bundles(dags: Path) -> str:
    bundles: list[dict[str, object]] = [
        {
            "name": DAGS_BUNDLE,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(dags), "refresh_interval": 30},
        },
        {
            "name": DOCUMENTS_BUNDLE,
            "classpath": "airflow_prominence.dags.bundles.DropInBundle",
            "kwargs": {},
        },
    ]
    return json.dumps(bundles)


def airflow_settings(places: Places, ports: Mapping[str, int], secrets: Secrets) -> dict[str, str]:
    """``AIRFLOW__…`` variables of every component."""
    base = base_url(ports)
    settings = {
        ("core", "executor"): "LocalExecutor",
        ("core", "parallelism"): "32",
        ("core", "load_examples"): "False",
        ("core", "test_connection"): "Enabled",
        ("core", "fernet_key"): secrets.fernet_key,
        ("core", "dags_folder"): str(places.dags),
        ("core", "execution_api_server_url"): base + "/execution/",
        ("core", "simple_auth_manager_users"): ",".join([f"{ADMIN}:admin", *(f"{user}:user" for user in USERS)]),
        ("core", "simple_auth_manager_passwords_file"): str(places.secrets / "passwords.json"),
        ("database", "sql_alchemy_conn"): database_url(ports, secrets),
        ("database", "sql_alchemy_pool_size"): "10",
        ("database", "sql_alchemy_max_overflow"): "30",
        ("api", "host"): "127.0.0.1",
        ("api", "port"): str(ports["api"]),
        ("api", "workers"): "1",
        ("api", "base_url"): base,
        ("api", "secret_key"): secrets.api_secret_key,
        ("api_auth", "jwt_secret"): secrets.jwt_secret,
        # Measured: what a short job waits for is mostly these loops (and 5 s of heartbeat before a slot is free again).
        ("workers", "min_heartbeat_interval"): "1",
        ("workers", "execution_api_timeout"): "30",
        ("scheduler", "scheduler_idle_sleep_time"): "0.2",
        ("scheduler", "max_dagruns_per_loop_to_schedule"): "100",
        ("scheduler", "max_tis_per_query"): "0",
        ("triggerer", "capacity"): "5000",
        ("triggerer", "job_heartbeat_sec"): "3",
        ("triggerer", "triggerer_health_check_threshold"): "15",
        ("dag_processor", "dag_bundle_config_list"): _bundles(places.dags),
        ("dag_processor", "parsing_processes"): "1",
        # A file that has changed is parsed at once anyway; to parse one that has not takes half a second of a core.
        ("dag_processor", "min_file_process_interval"): "300",
        ("logging", "logging_level"): "INFO",
        ("logging", "uvicorn_logging_level"): "WARNING",
        # A line for each long-poll, heartbeat and report would be most of the log and some of the CPU.
        ("logging", "namespace_levels"): "http.access=WARNING",
        ("logging", "worker_log_server_port"): str(ports["worker log"]),
        ("logging", "trigger_log_server_port"): str(ports["trigger log"]),
        ("prominence", "internal_secret"): secrets.internal_secret,
        # Its users are on this machine, or in its network, anyway.
        ("prominence", "private_network_sites"): "*",
        ("prominence", "loopback_sites"): "*",
        ("prominence", "object_storage"): str(places.objects),
        ("prominence", "documents_folder"): str(places.documents),
    }
    named = {f"AIRFLOW__{section}__{option}".upper(): value for (section, option), value in settings.items()}
    return {"AIRFLOW_HOME": str(places.airflow_home), **named, **read_overrides(places.overrides)}
