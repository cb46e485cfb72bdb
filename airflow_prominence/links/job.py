"""The link "Job" on every task of a job's run, live from the moment the run exists."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from airflow_prominence.dags.names import JOB_DAG_ID, job_id_of_run


class JobLink(BaseOperatorLink):
    """Links a task to its job. A global link: Airflow offers it on every operator, so it is empty for others' tasks."""

    name = "Job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address of the job's description, or "" for a task that belongs to no job."""
        if ti_key.dag_id != JOB_DAG_ID:
            return ""
        job_id = job_id_of_run(ti_key.run_id)
        return f"{public_url()}/jobs/{job_id}" if job_id is not None else ""


def public_url() -> str:
    """Return the address of the REST interface as users see it."""
    from airflow.configuration import conf

    explicit: str = conf.get("prominence", "public_url", fallback="") or ""
    if explicit:
        return explicit.rstrip("/")
    prefixes: str = conf.get("prominence", "api_prefixes", fallback="") or "/api/v1"
    base: str = conf.get("api", "base_url", fallback="") or ""
    # Without a base URL a path is the best that can be said; the browser completes it.
    return base.rstrip("/") + "/" + prefixes.split(",", maxsplit=1)[0].strip().strip("/")
