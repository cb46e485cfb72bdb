"""Links from Airflow's pages to a job's own page."""

from airflow_prominence.links.job import JobLink

__all__ = ["JobLink"]
