"""``airflow prominence check-config``: what does not suit, one sentence each, with its mend."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_prominence.commands.storage import storage_problems
from airflow_prominence.configuration import documents_folder
from airflow_prominence.dags.names import API_BUNDLE
from airflow_prominence.store.phases import NODE_UP
from airflow_prominence.store.tables import Node

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def check_config(args: argparse.Namespace) -> None:
    found = [
        *settings_problems(_Configuration()),
        *storage_problems(),
        *_database_problems(),
        *_processor_problems(_command_lines()),
        *documents_problems(_document_bundles(), Path(documents_folder()), _command_lines()),
    ]
    for problem in found:
        print(problem)
    if found:
        sys.exit(1)
    print("The configuration suits PROMINENCE.")


class _Configuration(Mapping[tuple[str, str], str]):
    """Airflow's configuration by (section, option); an option that is not set reads as ''."""

    def __getitem__(self, key: tuple[str, str]) -> str:
        return conf.get(*key, fallback="") or ""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        raise TypeError("the configuration is asked, not listed")

    def __len__(self) -> int:
        raise TypeError("the configuration is asked, not counted")


def settings_problems(options: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """What Airflow's options themselves show."""

    def at_most(section: str, option: str, limit: float, why: str) -> Iterator[str]:
        value = float(options[section, option] or 0)
        if value > limit:
            yield f"[{section}] {option} is {value:g}, {why}: set it to {limit:g}."

    def at_least(section: str, option: str, limit: float, why: str) -> Iterator[str]:
        value = float(options[section, option] or 0)
        if value < limit:
            yield f"[{section}] {option} is {value:g}, {why}: set it to {limit:g} or more."

    if not options["database", "sql_alchemy_conn"].startswith("postgresql"):
        yield (
            "[database] sql_alchemy_conn is not a PostgreSQL database, and on SQLite the scheduler dies of a few jobs: "
            "set it to postgresql+psycopg2://user:password@host/database."
        )
    executors = options["core", "executor"]
    if not any(name in executors for name in ("LocalExecutor", "CeleryExecutor", "KubernetesExecutor")):
        yield f"[core] executor is {executors}, which runs no task beside the scheduler: set it to LocalExecutor."
    if not options["prominence", "internal_secret"] and not options["api_auth", "jwt_secret"]:
        yield (
            "Neither [prominence] internal_secret nor [api_auth] jwt_secret is set, so each process makes up its own "
            "and refuses the others' tokens: set [prominence] internal_secret, the same everywhere."
        )
    if not options["core", "fernet_key"]:
        yield "[core] fernet_key is empty, so jobs' secrets would be kept in clear: set it to a Fernet key."
    b2drop = options["prominence", "b2drop_url"]
    if b2drop and not b2drop.startswith("https://") and urlsplit(b2drop).hostname not in _HERE:
        yield (
            f"[prominence] b2drop_url is {b2drop}, so users' app passwords travel in clear: set it to an https address."
        )
    if not options["api", "base_url"]:
        yield (
            "[api] base_url is empty, so jobs and nodes are told http://localhost:8080: "
            "set it to the address at which nodes reach the API server."
        )
    yield from at_most("workers", "min_heartbeat_interval", 1, "so a task's slot is held seconds after its end")
    yield from at_least("workers", "execution_api_timeout", 30, "so tasks fail on a machine that is busy for a moment")
    yield from at_most("scheduler", "scheduler_idle_sleep_time", 0.2, "so each step of a run waits that long")
    yield from at_least("scheduler", "max_dagruns_per_loop_to_schedule", 100, "so bursts of jobs crawl")
    if (options["scheduler", "max_tis_per_query"] or "0") != "0":
        yield "[scheduler] max_tis_per_query bounds what a loop starts: set it to 0."
    yield from at_most(
        "triggerer", "triggerer_health_check_threshold", 15, "so jobs wait that long when a triggerer has died"
    )
    yield from at_most("triggerer", "job_heartbeat_sec", 3, "which is too near to the health check's threshold")
    yield from at_least("triggerer", "capacity", 2000, "the number of waiting phases that one triggerer takes")


def _database_problems() -> Iterator[str]:
    """What only the database itself can say."""
    from airflow.utils.session import create_session
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    if not conf.get("database", "sql_alchemy_conn", fallback="").startswith("postgresql"):
        return
    try:
        with create_session() as session:
            timeout = session.execute(
                text("SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")
            ).scalar_one()
    except OperationalError as refused:
        said = str(refused.orig).strip()
        yield f"The database does not answer ({said}): start it or mend [database] sql_alchemy_conn."
        return
    if not timeout:
        yield (
            "PostgreSQL lets a dead scheduler's orphans hold their locks for ever: "
            "ALTER ROLE <Airflow's role> SET idle_in_transaction_session_timeout = '60s'."
        )
    with create_session() as session:
        yield from node_problems(session)


def node_problems(session: Session) -> Iterator[str]:
    """What the nodes have said of themselves that an admin should know."""
    for node in session.scalars(select(Node).where(Node.state == NODE_UP).order_by(Node.site, Node.name)):
        found = node.runtime_info.get("metadata") or {}
        if found.get("answers") and not found.get("blocked"):
            yield (
                f"Jobs on node {node.name} of site {node.site} can reach the cloud's metadata service at "
                f"{found['answers']} and use the machine's own credentials: start its node service as root, or block "
                "that address for all but root in the machine's firewall."
            )


def _command_lines() -> list[list[str]]:
    """The command lines of this machine's processes, as far as they may be read."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                raw = Path("/proc", entry, "cmdline").read_bytes()
            except OSError:
                continue
            found.append([part.decode(errors="replace") for part in raw.split(b"\0") if part])
    return found


def _processor_problems(command_lines: list[list[str]]) -> Iterator[str]:
    for words in command_lines:
        bundles = processor_bundles(words)
        if bundles is not None and (not bundles or API_BUNDLE in bundles):
            yield (
                f"A dag-processor on this machine serves {'the bundle ' + API_BUNDLE if bundles else 'every bundle'}, "
                f"and marks the DAGs that the API has made stale: start it as airflow dag-processor -B dags-folder."
            )
            return


def documents_problems(bundles: set[str], folder: Path, command_lines: list[list[str]]) -> Iterator[str]:
    """What keeps the folder of documents from becoming DAGs, where a bundle of that kind is configured."""
    if not bundles:
        return
    served = [names for names in map(processor_bundles, command_lines) if names]
    missing = sorted(bundles.difference(*served)) if served else []
    for name in missing:
        yield (
            f"No dag-processor on this machine serves the bundle {name}, so no document becomes a DAG: "
            f"start it as airflow dag-processor -B dags-folder -B {name}."
        )
    if served and not missing and not folder.is_dir():
        yield f"[prominence] documents_folder is {folder}, which is no folder: make it, or name the right one."


def _document_bundles() -> set[str]:
    configured: Any = conf.getjson("dag_processor", "dag_bundle_config_list", fallback=None) or []
    classes = {entry["name"]: entry.get("classpath") for entry in configured}
    return {name for name, path in classes.items() if path == "airflow_prominence.dags.bundles.DropInBundle"}


def processor_bundles(words: list[str]) -> list[str] | None:
    """The bundles that a command line's dag-processor serves ([] means all); None if it is no dag-processor."""
    if "dag-processor" not in words or not any("airflow" in word for word in words[: words.index("dag-processor")]):
        return None
    options = words[words.index("dag-processor") + 1 :]
    bundles = []
    for position, word in enumerate(options):
        if word in {"-B", "--bundle-name"} and position + 1 < len(options):
            bundles.append(options[position + 1])
        elif word.startswith("--bundle-name="):
            bundles.append(word.partition("=")[2])
    return bundles
