"""What people who live in Airflow do: files, DAGs of their own, clearing; on a stack like the integration tests'."""

from tests.integration.conftest import airflow, client, cloud, stack

__all__ = ["airflow", "client", "cloud", "stack"]
