"""Where a text has left traces on a running stack: every table, every file, every command line."""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from psycopg2 import sql

from tests.integration.stacks import Stack

#: Where a table's row could hold a text: as it is, as bytes (which PostgreSQL prints as hexadecimal), as base64.
Forms = tuple[str, ...]


def forms(text: str) -> Forms:
    """Return the forms in which a text may be kept; base64 as it looks wherever in something longer it began."""
    data = text.encode()
    found = [text, data.hex()]
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data).decode()
        # The characters at either end depend on what is before and after.
        found.append(coded[(8 * before + 5) // 6 : -4])
    return tuple(found)


def in_database(stack: Stack, texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return which texts (by their names) stand in which tables, of whatever schema."""
    tables = stack.psql(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    names = [name for _, name in tables]
    assert {"prominence_job", "dag_run", "xcom", "log", "connection"} <= set(names), names
    found = set()
    for schema, table in tables:
        # One query a table: does any row, printed whole, have any form of any text?
        query = sql.SQL("SELECT {} FROM {} AS t").format(
            sql.SQL(", ").join([sql.SQL("coalesce(bool_or(t::text LIKE ANY(%s)), false)")] * len(texts)),
            sql.Identifier(schema, table),
        )
        patterns = [[f"%{form}%" for form in forms(text)] for text in texts.values()]
        [hits] = stack.psql(query, *patterns)
        found |= {(name, table) for name, hit in zip(texts, hits, strict=True) if hit}
    return found


def in_files(folders: Iterable[Path], texts: Mapping[str, str], but: Iterable[Path] = ()) -> set[tuple[str, Path]]:
    """Return which texts (by their names) stand in which files below the folders, but for those named."""
    passed = {path.resolve() for path in but}
    wanted = {name: [form.encode() for form in forms(text)] for name, text in texts.items()}
    found = set()
    for path in _files(folders, passed):
        # A file may go while we look.
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            found |= {(name, path) for name, coded in wanted.items() if any(form in data for form in coded)}
    return found


def _files(folders: Iterable[Path], passed: set[Path]) -> Iterator[Path]:
    for folder in folders:
        for root, below, names in os.walk(folder):
            below[:] = [name for name in below if Path(root, name).resolve() not in passed]
            for name in names:
                path = Path(root, name)
                if path.is_file() and not path.is_symlink() and path.resolve() not in passed:
                    yield path


class ProcessWatch:
    """Reads the command line of every process of this machine, over and over, while it is asked to."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.rounds = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch, once, until the end of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.rounds += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())

    def found(self, texts: Mapping[str, str]) -> set[str]:
        """Return which texts (by their names) were on a command line."""
        return {
            name
            for name, text in texts.items()
            if any(form.encode() in line for form in forms(text) for line in self.seen)
        }
