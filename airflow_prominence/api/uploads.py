"""Users' uploads by the names that they know them by, and what must be seen to of them though nobody asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy.orm import Session

from airflow_prominence import documents
from airflow_prominence.api.database import transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.objects import BadKey, LocalStore, ObjectInfo, StoreUnavailable, object_store
from airflow_prominence.objects.keys import NotYourGroup, place_of
from airflow_prominence.store import uploadretention, uploads
from airflow_prominence.store.outputs import on_users_storage
from airflow_prominence.store.retention import Retention
from airflow_prominence.store.tables import Job

log = logging.getLogger(__name__)

#: An upload that has not come a day after it was announced will not come; its URL was good for ten minutes.
_PATIENCE_S = 86400
#: What is on its way in without a byte for so long belongs to a server that was killed, in seconds.
_STALE_S = 3600


def find_upload(name: str, owner: str, groups: Iterable[str]) -> ObjectInfo | None:
    """Return the object that a name in a document means to this owner, ``None`` if there is none."""
    try:
        return object_store().stat(place_of(name, owner, groups).key)
    except (BadKey, NotYourGroup):
        return None


def check_uploads(jobs: Iterable[documents.Job], owner: str, groups: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of the uploads that jobs name; refuse a name that is no upload of their owner or his groups."""
    wanted = dict.fromkeys(upload for job in jobs for upload in documents.uploads_of(job))
    keys = []
    for kind, name in wanted:
        found = find_upload(name, owner, groups)
        if found is None:
            raise ApiError(400, f"{kind} {name} does not exist")
        keys.append(found.key)
    return tuple(keys)


def keys_of_names(names: Iterable[str], owner: str, groups: Sequence[str]) -> Iterator[str]:
    """Yield the keys that names in a document lead to, whether there is such an object or not."""
    for name in names:
        try:
            yield place_of(name, owner, groups).key
        except (BadKey, NotYourGroup):
            continue


def kept_uploads(session: Session, job: Job, keep: Retention) -> dict[str, dict[str, int]]:
    """Return when each upload that a job's document names goes if no job uses it any more, as descriptions show it."""
    if on_users_storage(job):
        return {}
    names = [artifact["url"] for artifact in job.document.get("artifacts", ())] + [task["image"] for task in job.tasks]
    keys = {key: name for name in names for key in keys_of_names([name], job.owner, job.owner_groups)}
    ends = uploadretention.kept_until(session, list(keys), keep)
    return {keys[key]: {"until": int(end)} for key, end in ends.items()}


def settle_uploads() -> int:
    """Find out what became of announced uploads that nobody told of, and clear up after killed servers.

    A bucket tells nobody when somebody has put something into it. Returns how many uploads were settled.
    """
    store = object_store()
    if isinstance(store, LocalStore):
        store.sweep(_STALE_S)
    before = time.time() - _PATIENCE_S
    settled = 0
    try:
        for key in transact(lambda session: uploads.unsettled(session, before)):
            _settle(key, store.stat(key), before)
            settled += 1
    except StoreUnavailable as error:
        log.warning("announced uploads have to wait: %s", error)
    return settled


def _settle(key: str, info: ObjectInfo | None, before: float) -> None:
    if info is None:
        transact(lambda session: uploads.forget(session, key, before))
    else:
        transact(lambda session: uploads.note_stored(session, key, info.sha256, info.modified))
