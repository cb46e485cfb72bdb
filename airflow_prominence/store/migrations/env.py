"""Alembic's environment for our tables only: own version table, Airflow's tables are never looked at."""

from __future__ import annotations

from typing import Any

from airflow import settings
from alembic import context

from airflow_prominence.store.manager import ProminenceDBManager
from airflow_prominence.store.tables import metadata

VERSION_TABLE = ProminenceDBManager.version_table_name


def include_object(_item: Any, name: str | None, type_: str, _reflected: bool, _compare_to: Any) -> bool:
    """Keep Alembic's comparisons to the tables of our metadata."""
    return type_ != "table" or name in metadata.tables


def run_migrations_offline() -> None:
    """Write the statements instead of running them."""
    context.configure(
        url=settings.SQL_ALCHEMY_CONN,
        target_metadata=metadata,
        literal_binds=True,
        version_table=VERSION_TABLE,
        include_object=include_object,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Run the statements on the connection that was handed in, else on one of Airflow's engine."""
    given = context.config.attributes.get("connection")
    if given is not None:
        _configure_and_run(given)
        return
    with settings.get_engine().connect() as connection:
        _configure_and_run(connection)
        connection.commit()


def _configure_and_run(connection: Any) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_object=include_object,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
