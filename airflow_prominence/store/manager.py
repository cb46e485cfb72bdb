"""Airflow's hook for our tables: ``airflow db migrate`` creates and upgrades them with its own."""

from __future__ import annotations

from pathlib import Path

from airflow.utils.db_manager import BaseDBManager, command

from airflow_prominence.store.schema import HEAD, VERSION_TABLE
from airflow_prominence.store.tables import metadata as prominence_metadata

_HERE = Path(__file__).parent


class ProminenceDBManager(BaseDBManager):
    """Creates the tables from the ORM on a first install, by Alembic afterwards (``mechanics.md`` 13)."""

    metadata = prominence_metadata
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    version_table_name = VERSION_TABLE
    supports_table_dropping = True
    revision_heads_map = {"0.1.0": HEAD}  # noqa: RUF012 - declared by Airflow

    def downgrade(self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False) -> None:
        """Take the schema back to ``to_revision`` (``base`` drops every table of ours)."""
        config = self.get_alembic_config()  # type: ignore[no-untyped-call]
        revision = f"{from_revision}:{to_revision}" if from_revision else to_revision
        command.downgrade(config, revision=revision, sql=show_sql_only)
