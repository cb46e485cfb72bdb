"""Users' access to registries by Airflow connections of type ``docker``, so that no document holds a password.

A connection is for the jobs of those whom its extra names: ``{"prominence_users": ["ada"], "prominence_groups":
["physics"]}``, where ``*`` stands for all users. It is used for images of its own registry only: whoever may name it
could have it sent to a server of theirs otherwise.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_prominence import documents
from airflow_prominence.agent.images import reference
from airflow_prominence.agent.images.model import PullError
from airflow_prominence.api.errors import ApiError

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)

_UNKNOWN = "there is no Airflow connection of this name for the registries of your jobs"


class NoCredential(Exception):
    """The connection is not for this job's image; one sentence that tells nothing of other people's connections."""


def check_connections(jobs: Iterable[documents.Job], owner: str, groups: Iterable[str]) -> None:
    """Refuse, naming the field, a connection that could not be used for its task's image."""
    for job in jobs:
        for index, task in enumerate(job.tasks):
            if task.connection is not None:
                try:
                    credential(task.connection, task.image, owner, groups)
                except NoCredential as error:
                    raise ApiError(400, f"tasks[{index}].imagePullCredential: {error}") from None


def credential(conn_id: str, image: str, owner: str, groups: Iterable[str]) -> documents.Credential:
    """Return the user name and password that a connection holds for an image of its registry, or raise NoCredential.

    Blocking: a secrets backend may be asked.
    """
    connection = _connection(conn_id)
    if connection is None or not _may_use(connection.extra_dejson, owner, groups):
        raise NoCredential(_UNKNOWN)
    registry = _registry_of(image)
    port = f":{connection.port}" if connection.port else ""
    named = _host(f"{connection.host}{port}") if connection.host else None
    if registry is None or named is None or named != registry:
        known = named or "no registry"
        raise NoCredential(f"the Airflow connection is for {known}, not for the registry of this image")
    if not connection.login or not connection.password:
        raise NoCredential("the Airflow connection has no user name or no password")
    return documents.Credential(connection.login, connection.password)


def _connection(conn_id: str) -> Connection | None:
    if importlib.util.find_spec("airflow.providers.docker") is None:
        raise NoCredential("the extra docker is not installed at the server: pip install 'airflow-prominence[docker]'")
    from airflow.providers.docker.hooks.docker import DockerHook
    from airflow.sdk.exceptions import AirflowException

    try:
        connection = DockerHook.get_connection(conn_id)
    except AirflowException as error:
        log.info("connection %s was not found: %s", conn_id, type(error).__name__)
        return None
    return connection if connection.conn_type == DockerHook.conn_type else None


def _may_use(extra: dict[str, Any], owner: str, groups: Iterable[str]) -> bool:
    users = _words(extra.get("prominence_users"))
    return "*" in users or owner in users or not _words(extra.get("prominence_groups")).isdisjoint(groups)


def _words(value: object) -> set[str]:
    """The names in a list, or in a string with commas, as Airflow's form gives it."""
    if isinstance(value, str):
        value = value.split(",")
    return (
        {item.strip() for item in value if isinstance(item, str) and item.strip()} if isinstance(value, list) else set()
    )


def _registry_of(image: str) -> str | None:
    if reference.is_url(image):
        return _host(image)
    if documents.is_uploaded_image(image) or image.startswith("/") or reference.is_hub(image):
        return None
    try:
        return reference.parse(image).registry.lower()
    except PullError:
        return None


def _host(address: str) -> str | None:
    """The host, with its port, of an address with or without its scheme and path; Docker Hub has one name."""
    try:
        host = urlsplit(address if "://" in address else "//" + address).netloc.rpartition("@")[2].lower()
    except ValueError:
        return None
    return reference.canonical(host) if host else None
