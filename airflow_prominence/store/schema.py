"""Which version of our tables this code needs, and which one the database has."""

from __future__ import annotations

from typing import Final

from sqlalchemy import String, column, select, table
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

#: The newest revision in ``migrations/versions``.
HEAD: Final = "0010"
VERSION_TABLE: Final = "alembic_version_prominence"


def version(session: Session) -> str | None:
    """Return the revision of the tables in the database, ``None`` if there are none yet."""
    revision = column("version_num", String)
    try:
        return session.scalar(select(revision).select_from(table(VERSION_TABLE, revision)))
    except ProgrammingError:
        session.rollback()
        return None


def is_current(session: Session) -> bool:
    """Tell whether ``airflow db migrate`` was run for this version of the package."""
    return version(session) == HEAD
