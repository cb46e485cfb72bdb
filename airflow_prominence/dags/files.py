"""The text of the DAG files that a site puts into its DAGs folder (a pip installation brings no such folder)."""

from __future__ import annotations

from pathlib import Path

from airflow_prominence.dags.names import JOB_DAG_ID, MAINTENANCE_DAG_ID


def _text(function: str) -> str:
    # Airflow's safe mode only parses files that contain both words, "dag" and "airflow".
    return f"from airflow_prominence.dags.shared import {function}\n\ndag = {function}()\n"


DAG_FILES = {
    f"{JOB_DAG_ID}.py": _text("prominence_job_dag"),
    f"{MAINTENANCE_DAG_ID}.py": _text("prominence_maintenance_dag"),
}


def write_dag_files(folder: str | Path) -> list[Path]:
    """Write the DAG files into a folder; a file that already has the right text is left alone. Returns those written.

    A file is replaced in one step: the DAG processor must never read half of one, which would mark its DAG stale.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in DAG_FILES.items():
        path = target / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        half = target / f".{name}.new"
        half.write_text(text, encoding="utf-8")
        half.replace(path)
        written.append(path)
    return written
