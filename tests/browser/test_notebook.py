"""Chapter 8.3 of the manual: docs/notebook.ipynb as Jupyter runs it, its user logging in in a browser meanwhile."""

from __future__ import annotations

import ast
import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from airflow_prominence.standalone.settings import own_environment
from tests.browser.issuers import ERIKA, Issuer, asked
from tests.integration.stacks import Stack, until

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def printed(notebook: Any, beginning: str) -> str:
    """What the cell whose source begins so has printed by now."""
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith(beginning)]
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_the_notebook_of_the_manual_runs(stack: Stack, issuer: Issuer, tmp_path: Path) -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    addresses = {"PROMINENCE_URL": stack.url, "PROMINENCE_OIDC_URL": stack.url, "HOME": str(tmp_path)}
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    environ = {**own_environment(os.environ), **addresses, "PROMINENCE_DEMO_IMAGE": stack.image}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: asyncio.run(client.async_execute(env=environ)))
        until(lambda: running.done() or asked(printed(notebook, "client =")), 90, what="the notebook asks its user")
        wanted = asked(printed(notebook, "client ="))
        if wanted:
            issuer.agree(*wanted, ERIKA)
        running.result(240)

    assert printed(notebook, "client =").endswith("Successfully retrieved token\n")
    job = int(printed(notebook, "id =").removeprefix("Job submitted with id "))
    assert printed(notebook, "# Check status") in {f"Job status is {status}\n" for status in ("pending", "running")}
    active = ast.literal_eval(printed(notebook, "# List currently active jobs"))
    assert [item["id"] for item in active] == [job]
    assert printed(notebook, "import time") == "streamlines\n\n"
    for listing, bound in (("# List last completed", 1), ("# List the last 4", 4), ("# List all jobs", 99)):
        listed = ast.literal_eval(printed(notebook, listing))
        assert 1 <= len(listed) <= bound
        assert (listed[0]["id"], listed[0]["status"]) == (job, "completed"), listing
    assert not (tmp_path / ".prominence" / "token").exists(), "the token is kept in memory only"
