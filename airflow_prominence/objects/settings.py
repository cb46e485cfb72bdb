"""Where objects are kept: options of section ``[prominence]``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from airflow.configuration import AIRFLOW_HOME

from airflow_prominence import configuration

_S3 = re.compile(r"s3://(?:(?P<connection>[^/@]+)@)?(?P<bucket>[^/@]+)(?:/(?P<prefix>.*))?")
_DEFAULT_CONNECTION = "aws_default"


@dataclass(frozen=True)
class InFolder:
    """A folder that all API servers share."""

    folder: Path


@dataclass(frozen=True)
class InS3:
    """A bucket, reached with an Airflow connection of type ``aws``; ``prefix`` has no slash around it."""

    connection: str
    bucket: str
    prefix: str


@dataclass(frozen=True)
class StorageSettings:
    """Where objects are, and which addresses their URLs get; ``endpoint`` is empty for the connection's own."""

    place: InFolder | InS3
    endpoint: str
    public_url: str
    node_url: str
    secret: str


def read_settings() -> StorageSettings:
    """Return the configured storage; raise ValueError with the option's name if it is none."""
    return StorageSettings(
        place=parse_place(configuration.text("object_storage", "")),
        endpoint=configuration.text("object_endpoint", "").rstrip("/"),
        public_url=configuration.public_url(),
        node_url=configuration.node_url(),
        secret=configuration.secret(),
    )


def parse_place(text: str) -> InFolder | InS3:
    """Return what ``object_storage`` says: a folder, or ``s3://CONNECTION@BUCKET/PREFIX``."""
    if not text:
        return InFolder(Path(AIRFLOW_HOME) / "objects")
    if text.startswith("s3://"):
        found = _S3.fullmatch(text)
        if found is None:
            raise ValueError(f"[prominence] object_storage: {text} is not s3://CONNECTION@BUCKET/PREFIX")
        prefix = (found["prefix"] or "").strip("/")
        return InS3(found["connection"] or _DEFAULT_CONNECTION, found["bucket"], prefix)
    path = text.removeprefix("file://")
    if "://" in path or not os.path.isabs(path):
        raise ValueError(f"[prominence] object_storage: {text} is neither an absolute path nor an s3:// address")
    return InFolder(Path(path))
