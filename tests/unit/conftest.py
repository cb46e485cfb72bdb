from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.orm import Session


@pytest.fixture
def airflow_session(tmp_path: Path) -> Iterator[Session]:
    """A session on an empty database with Airflow's tables, whatever database this process's Airflow is set to."""
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from airflow.models.tasklog import LogTemplate
    from sqlalchemy import create_engine, event

    import_all_models()
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # Left to itself, sqlite3 begins too late, and a savepoint's release then commits.
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    with Session(engine, autoflush=False) as session:
        # `airflow db migrate` writes this row; every run refers to one.
        session.add(LogTemplate(filename="x", elasticsearch_id="x"))
        session.commit()
        yield session
    engine.dispose()
