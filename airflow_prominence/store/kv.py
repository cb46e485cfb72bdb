"""Users' keys and values (``prominence.md`` 1.4); every change is one statement, so no two of them can mix."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import ColumnElement, collate, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import KeyValue

#: Keys that hold this are between the nodes of a job; they can be read but no list shows them.
INTERNAL = "_internal_"


def get(session: Session, owner: str, key: str) -> bytes | None:
    """Return the value, ``None`` if there is no such key."""
    return session.scalar(select(KeyValue.value).where(*_is(owner, key)))


def put(session: Session, owner: str, key: str, value: bytes) -> None:
    """Set the value, whatever was there."""
    changed = {"value": value, "updated_at": time.time()}
    query = insert(KeyValue).values(owner=owner, key=key, **changed)
    session.execute(query.on_conflict_do_update(index_elements=[KeyValue.owner, KeyValue.key], set_=changed))


def swap(session: Session, owner: str, key: str, old: bytes, new: bytes) -> bool:
    """Set the value if it is ``old`` at present; tell whether it was.

    PostgreSQL looks at the row again once it has its lock: of two swaps from the same value one finds another there.
    """
    query = update(KeyValue).where(*_is(owner, key), KeyValue.value == old)
    query = query.values(value=new, updated_at=time.time()).execution_options(synchronize_session=False)
    return session.scalar(query.returning(KeyValue.key)) is not None


def create(session: Session, owner: str, key: str, value: bytes) -> bool:
    """Set the value if the key is not there yet; tell whether it was so."""
    query = insert(KeyValue).values(owner=owner, key=key, value=value, updated_at=time.time())
    return session.scalar(query.on_conflict_do_nothing().returning(KeyValue.key)) is not None


def remove(session: Session, owner: str, key: str) -> None:
    """Delete the key if it is there."""
    session.execute(delete(KeyValue).where(*_is(owner, key)).execution_options(synchronize_session=False))


def remove_all(session: Session, owner: str, prefix: str) -> None:
    """Delete every key that starts with ``prefix``."""
    query = delete(KeyValue).where(*_under(owner, prefix))
    session.execute(query.execution_options(synchronize_session=False))


def keys(session: Session, owner: str, prefix: str) -> Sequence[str]:
    """Return the keys that start with ``prefix``, in order, without the internal ones."""
    return session.scalars(select(KeyValue.key).where(*_shown(owner, prefix)).order_by(_ORDER)).all()


def items(session: Session, owner: str, prefix: str) -> list[tuple[str, bytes]]:
    """Return the same keys with their values."""
    rows = session.execute(select(KeyValue.key, KeyValue.value).where(*_shown(owner, prefix)).order_by(_ORDER))
    return [(key, value) for key, value in rows]


#: A database's own collation may pass over slashes, which would mix folders.
_ORDER = collate(KeyValue.key, "C")


def _is(owner: str, key: str) -> list[ColumnElement[bool]]:
    return [KeyValue.owner == owner, KeyValue.key == key]


def _under(owner: str, prefix: str) -> list[ColumnElement[bool]]:
    return [KeyValue.owner == owner, KeyValue.key.startswith(prefix, autoescape=True)]


def _shown(owner: str, prefix: str) -> list[ColumnElement[bool]]:
    return [*_under(owner, prefix), ~KeyValue.key.contains(INTERNAL, autoescape=True)]
