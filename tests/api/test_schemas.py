"""The published descriptions: schemas, OpenAPI, migrations; each compared with what the code really does."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
import sqlalchemy as sa


def test_the_committed_openapi_is_what_the_app_serves(http: Any) -> None:
    from airflow_prominence.api.app import openapi

    committed = json.loads(resources.files("airflow_prominence.api").joinpath("openapi.json").read_text())
    assert committed == json.loads(json.dumps(openapi()))
    assert http.get("/api/v1/schemas/openapi.json").json() == committed


@pytest.mark.parametrize("kind", ["job", "workflow", "airflow"])
def test_schemas_are_served_to_anybody(http: Any, kind: str) -> None:
    import jsonschema

    served = http.get(f"/api/v1/schemas/{kind}.json").json()
    jsonschema.validators.validator_for(served).check_schema(served)
    assert f"{kind}.json" in http.get("/api/v1/schemas").json()["schemas"]


@pytest.fixture
def empty(database: sa.Engine) -> Any:
    """A connection to an empty database on the same server."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS migrations"))
        connection.execute(sa.text("CREATE DATABASE migrations"))
    engine = sa.create_engine(database.url.set(database="migrations"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def alembic(connection: sa.Connection) -> Any:
    from alembic.config import Config

    from airflow_prominence.store.manager import ProminenceDBManager

    config = Config(ProminenceDBManager.alembic_file)
    config.set_main_option("script_location", ProminenceDBManager.migration_dir)
    config.attributes["connection"] = connection
    return config


def ours(connection: sa.Connection) -> set[str]:
    names = sa.inspect(connection).get_table_names()
    return {name for name in names if name.startswith("prominence_")}


def test_migrations_go_up_and_down(empty: sa.Connection) -> None:
    from alembic import command

    from airflow_prominence.store.tables import metadata

    command.upgrade(alembic(empty), "head")
    assert ours(empty) == set(metadata.tables)
    command.downgrade(alembic(empty), "base")
    assert ours(empty) == set()
    command.upgrade(alembic(empty), "head")
    assert ours(empty) == set(metadata.tables)


def schema_of(connection: sa.Connection) -> dict[str, Any]:
    """Everything PostgreSQL knows of our tables: columns, defaults, constraints, indexes, sequences."""
    queries = {
        "columns": "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_name LIKE 'prominence%'",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid::regclass::text LIKE 'prominence%' AND contype <> 'n'",
        "indexes": "SELECT tablename, indexdef FROM pg_indexes WHERE tablename LIKE 'prominence%'",
        "sequences": "SELECT sequencename, data_type::text FROM pg_sequences WHERE sequencename LIKE 'prominence%'",
    }
    return {name: sorted(map(str, connection.execute(sa.text(query)))) for name, query in queries.items()}


def test_migrations_and_the_orm_give_the_same_schema(database: sa.Engine, empty: sa.Connection) -> None:
    from alembic import command

    command.upgrade(alembic(empty), "head")
    with database.connect() as connection:
        assert schema_of(empty) == schema_of(connection)


def test_airflow_finds_the_manager_by_itself_and_is_at_its_head(database: sa.Engine) -> None:
    from airflow.utils.db_manager import RunDBManager
    from airflow.utils.session import create_session
    from alembic.script import ScriptDirectory

    with create_session() as session:
        assert RunDBManager().check_migration(session) in (None, True)
    with database.connect() as connection:
        [version] = connection.execute(sa.text("SELECT version_num FROM alembic_version_prominence")).scalars()
    assert version == ScriptDirectory.from_config(alembic(connection)).get_current_head()


def test_health_says_when_the_tables_are_of_another_version(http: Any, database: sa.Engine) -> None:
    from airflow_prominence.store.schema import HEAD

    def troubles() -> str:
        answer = http.get("/api/v1/health")
        return "" if answer.status_code == 204 else answer.json()["errors"]

    assert "prominence_schema" not in troubles()
    statement = sa.text("UPDATE alembic_version_prominence SET version_num = :version")
    with database.begin() as connection:
        connection.execute(statement, {"version": "0001"})
    try:
        assert "prominence_schema" in troubles()
    finally:
        with database.begin() as connection:
            connection.execute(statement, {"version": HEAD})
    assert "prominence_schema" not in troubles()
