"""Objects: uploads, outputs and snapshots, in a folder of the API servers or in S3 (``prominence.md`` 1.3).

Clients and nodes move the bytes themselves, by URLs that need no token: the API only says which.
"""

from __future__ import annotations

import functools
import importlib.util

from airflow_prominence.objects.keys import group_folder, output_key, scratch_folder, snapshot_key, user_folder
from airflow_prominence.objects.local import LocalStore
from airflow_prominence.objects.model import (
    BadKey,
    ChecksumMismatch,
    KeyTaken,
    NoRoom,
    NoSuchObject,
    ObjectInfo,
    ObjectStore,
    ObjectStoreError,
    PutTarget,
    StoreUnavailable,
)
from airflow_prominence.objects.s3 import S3Store
from airflow_prominence.objects.settings import InFolder, StorageSettings, read_settings
from airflow_prominence.objects.signing import Signer

__all__ = [
    "INPUT_LIFETIME_S",
    "OUTPUT_GET_LIFETIME_S",
    "OUTPUT_PUT_LIFETIME_S",
    "RENEWED_OUTPUT_LIFETIME_S",
    "SNAPSHOT_LIFETIME_S",
    "UPLOAD_LIFETIME_S",
    "BadKey",
    "ChecksumMismatch",
    "KeyTaken",
    "LocalStore",
    "NoRoom",
    "NoSuchObject",
    "ObjectInfo",
    "ObjectStore",
    "ObjectStoreError",
    "PutTarget",
    "S3Store",
    "StoreUnavailable",
    "group_folder",
    "object_store",
    "output_key",
    "scratch_folder",
    "snapshot_key",
    "user_folder",
]

#: How long the URLs of each kind are good for, in seconds.
UPLOAD_LIFETIME_S = 600
INPUT_LIFETIME_S = 10 * 86400
OUTPUT_PUT_LIFETIME_S = 10 * 86400
RENEWED_OUTPUT_LIFETIME_S = 2 * 3600
OUTPUT_GET_LIFETIME_S = 7 * 86400
SNAPSHOT_LIFETIME_S = 3600


@functools.cache
def object_store() -> ObjectStore:
    """Return this deployment's object store."""
    return store_of(read_settings())


def store_of(settings: StorageSettings) -> ObjectStore:
    """Return the store that the settings describe."""
    place = settings.place
    if isinstance(place, InFolder):
        return LocalStore(place.folder, Signer(settings.secret), settings.public_url, settings.node_url)
    if importlib.util.find_spec("s3fs") is None:
        raise ValueError(
            "[prominence] object_storage: for s3:// the extra s3 is needed: pip install 'airflow-prominence[s3]'"
        )
    return S3Store(place.connection, place.bucket, place.prefix, settings.endpoint)
