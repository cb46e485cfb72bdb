from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
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
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
    Base.metadata.create_all(engine)
    with Session(engine, autoflush=False) as session:
        # `airflow db migrate` writes this row; every run refers to one.
        session.add(LogTemplate(filename="x", elasticsearch_id="x"))
        session.commit()
        yield session
    engine.dispose()
