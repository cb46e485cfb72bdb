"""What an admin should know of the object storage before users find out."""

from __future__ import annotations

import os
from collections.abc import Iterator

from airflow_prominence.objects import StoreUnavailable, store_of
from airflow_prominence.objects.settings import InFolder, StorageSettings, read_settings

#: Never written: asking for it shows that the address, the credentials and the bucket are good.
_NO_OBJECT = "scratch/check-config"


def storage_problems() -> Iterator[str]:
    """Say what does not suit about ``[prominence] object_storage``."""
    try:
        settings = read_settings()
    except ValueError as error:
        yield f"{error}: set it as `airflow config list --section prominence` says."
        return
    if not isinstance(settings.place, InFolder):
        # As Airflow's own commands about connections do: else only those of the environment are found.
        os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
        yield from bucket_problems(settings)


def bucket_problems(settings: StorageSettings) -> Iterator[str]:
    """Say why a bucket cannot be used with its connection."""
    try:
        store = store_of(settings)
        store.list(_NO_OBJECT)
    except ValueError as error:
        yield f"{error}."
    except StoreUnavailable as error:
        yield (
            f"[prominence] object_storage: the bucket does not answer ({error}): mend the option, or the Airflow "
            "connection that it names."
        )
