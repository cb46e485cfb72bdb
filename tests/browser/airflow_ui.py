"""Airflow's pages in headless Chromium, one user signed in."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.browser.programs import packages, program


@dataclass(frozen=True)
class Page:
    """A page to look at."""

    path: str
    """Below the UI's address."""
    view: str = ""
    """What a DAG's or a run's page shows at its left: ``grid``, ``graph`` or ``gantt``."""
    until: str = ""
    """A text that is there when all is there."""


def run_page(dag: str, run: str, task: str = "", view: str = "", until: str = "") -> Page:
    """The page of a run, or of one of its tasks, which begins with the task's log."""
    path = f"/dags/{dag}/runs/{quote(run)}" + (f"/tasks/{task}" if task else "")
    return Page(path, view, until)


class NotDone(AssertionError):
    """The browser could not do what was wanted of it; with what its page showed."""


class Refused(Exception):
    """The trigger form says that it does not take what is in it."""


class AirflowUi:
    """One browser window. Everything waits until the page is whole; ``NotDone`` if it never is."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._process = subprocess.Popen(
            [program("node"), "airflow.mjs", program("chromium")],
            cwd=packages(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask("login", url=url, user=user, password=password)

    def close(self) -> None:
        # The browser ends with its standard input.
        self._process.communicate(timeout=30)

    def text(self, page: Page) -> str:
        """Open a page; all that can be read on it."""
        text: str = self._open(page)
        return text

    def nodes(self, page: Page) -> list[list[str]]:
        """Open a page's graph; the lines in each of its boxes."""
        boxes: list[str] = self._open(page)
        return [[line for line in box.splitlines() if line] for box in boxes]

    def squares(self, page: Page, run: str) -> dict[str, str]:
        """Open a page's grid; the tasks of one run in their order, and what the grid tells of each."""
        self._open(page)
        return dict(self._ask("grid", run=run))

    def form(self, dag: str) -> str:
        """Open a DAG's trigger form; all that can be read in it."""
        text: str = self._ask("form", url=f"{self.url}/dags/{dag}")
        return text

    def paste(self, text: str) -> tuple[bool, str]:
        """Replace what is in the form's editor; whether it can be sent, and all that can be read in the form now."""
        told = self._ask("paste", text=text)
        return told["ready"], told["text"]

    def press_trigger(self) -> str:
        """Send the form; the id of the run that it has started.

        Raises:
            Refused: it says why not.

        """
        told = self._ask("press")
        if "refused" in told:
            raise Refused(told["refused"])
        run: str = told["run"].rpartition("/runs/")[2]
        return run

    def screenshot(self, path: Path) -> None:
        """What the window shows now, as PNG."""
        self._ask("shot", path=str(path.absolute()))

    def show(self, page: Page) -> None:
        """Open a page."""
        self._open(page)

    def _open(self, page: Page) -> Any:
        return self._ask("open", url=self.url + page.path, view=page.view, until=page.until)

    def _ask(self, name: str, **how: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": name, **how}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise NotDone("the browser has died")
        told = json.loads(line)
        if "error" in told:
            raise NotDone(told["error"])
        return told["answer"]
