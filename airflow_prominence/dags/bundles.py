"""The bundle of the folder of documents: JSON and YAML files that people drop in there become DAGs.

Airflow finds only Python files, so each document gets a stub: a file of its own, by which a broken document is an
import error of its own and harms no other.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.configuration import AIRFLOW_HOME
from airflow.dag_processing.bundles.base import BaseDagBundle

from airflow_prominence import configuration
from airflow_prominence.dags.stubs import stub_of, stub_of_refusal
from airflow_prominence.documents import dag_id_of, is_drop_in

log = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES = 4_000_000

_REFRESH_S = 10
_STUBS_FOLDER = "document_dags"


@dataclass(frozen=True, slots=True)
class _Document:
    """A file of the folder; ``text`` is None where it could not be read, and ``sentence`` then says why."""

    file: str
    mtime_ns: int
    mode: int
    text: str | None
    sentence: str = ""


class DropInBundle(BaseDagBundle):
    """A folder of documents as a DAG bundle.

    :param documents: the folder; where it is not given, ``[prominence] documents_folder``.
    :param stubs: the folder that the stubs are written to, which is this bundle's alone; where it is not given,
        ``document_dags/<name of the bundle>`` in AIRFLOW_HOME.
    """

    supports_versioning = False

    def __init__(self, *, documents: str | None = None, stubs: str | None = None, **options: Any) -> None:
        super().__init__(**{"refresh_interval": _REFRESH_S, **options})
        self.documents = Path(documents or configuration.documents_folder())
        self._stubs = Path(stubs) if stubs else Path(AIRFLOW_HOME) / _STUBS_FOLDER / self.name
        self._ids: dict[tuple[str, str], str | None] = {}

    @property
    def path(self) -> Path:
        """Where the stubs are."""
        return self._stubs

    def get_current_version(self) -> None:
        """Return nothing: a folder has no versions."""

    def initialize(self) -> None:
        """Write the stubs, so that a worker that has never seen the folder finds them."""
        self.refresh()
        super().initialize()

    def refresh(self) -> None:
        """Make the stubs those of the documents that are in the folder now.

        Raises FileNotFoundError or another OSError if the folder itself cannot be read: then all stubs stay.
        """
        with self._locked_stubs():
            wanted = {_stub_file(document.file): document for document in self._read_all()}
            for stub, (document, text) in self._texts(wanted).items():
                try:
                    _write(self._stubs / stub, text, document.mode)
                except OSError as error:
                    log.warning("Document %s is left out: its stub cannot be written: %s", document.file, error)
            self._remove_all_but(set(wanted))

    def stub_files(self) -> list[str]:
        """The paths of the stubs in the bundle, of documents too that no refresh has seen yet."""
        return [_stub_file(file) for file, _ in _files(self.documents)]

    def _read_all(self) -> list[_Document]:
        found = [_read(path, file) for file, path in _files(self.documents)]
        return [document for document in found if document is not None]

    def _texts(self, wanted: dict[str, _Document]) -> dict[str, tuple[_Document, str]]:
        """The text of each stub. Of two documents with one DAG id, the one that was changed later is refused."""
        texts = {}
        ids: dict[tuple[str, str], str | None] = {}
        first: dict[str, str] = {}
        for stub, document in sorted(wanted.items(), key=lambda pair: (pair[1].mtime_ns, pair[0])):
            if document.text is None:
                texts[stub] = document, stub_of_refusal(f"{document.file}: {document.sentence}", document.file)
                continue
            key = document.file, document.text
            dag_id = ids[key] = self._ids[key] if key in self._ids else dag_id_of(document.text, document.file)
            other = first.setdefault(dag_id, document.file) if dag_id else document.file
            if other == document.file:
                texts[stub] = document, stub_of(document.text, document.file)
            else:
                sentence = f"{document.file}: airflow.dag_id: {other} makes the DAG {dag_id} already"
                texts[stub] = document, stub_of_refusal(sentence, document.file)
        self._ids = ids
        return texts

    def _remove_all_but(self, wanted: set[str]) -> None:
        for folder, _, names in os.walk(self._stubs, topdown=False):
            here = Path(folder)
            for name in names:
                # What Python has compiled goes with its stub
                source = (
                    here.parent / f"{name.partition('.cpython-')[0]}.py" if here.name == "__pycache__" else here / name
                )
                if str(source.relative_to(self._stubs)) not in wanted:
                    (here / name).unlink(missing_ok=True)
            if here != self._stubs:
                with suppress(OSError):
                    here.rmdir()

    @contextmanager
    def _locked_stubs(self) -> Iterator[None]:
        self._stubs.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The folder itself is locked: a file might be another user's, who has only run a command of Airflow's
        folder = os.open(self._stubs, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The documents below a folder: path in it, and where it is. Hidden folders and files are none."""

    def failed(error: OSError) -> None:
        if error.filename == str(folder):
            raise error

    for here, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if not is_drop_in(name):
                continue
            if os.fsencode(path) != str(path).encode(errors="replace"):
                log.warning("Document %a is left out: its name is not UTF-8", str(path))
                continue
            yield path.relative_to(folder).as_posix(), path


def _stub_file(file: str) -> str:
    return f"{file}.py"


def _read(path: Path, file: str) -> _Document | None:
    """Read a document; None if it has just vanished."""
    mtime_ns, mode = 0, 0o600
    try:
        # Not blocking, since a name may also be that of a pipe
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
            facts = os.fstat(opened.fileno())
            mtime_ns, mode = facts.st_mtime_ns, facts.st_mode & 0o666 | 0o600
            data = opened.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _Document(file, mtime_ns, mode, None, f"cannot be read: {error.strerror}")
    if len(data) > MAX_DOCUMENT_BYTES:
        return _Document(file, mtime_ns, mode, None, f"is larger than {MAX_DOCUMENT_BYTES // 10**6} MB")
    try:
        # Some editors write a mark before the first character
        return _Document(file, mtime_ns, mode, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _Document(file, mtime_ns, mode, None, f"line {line} is not valid UTF-8")


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file unless it is already so: what keeps its time is not parsed again."""
    try:
        if path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode:
            return
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".", encoding="utf-8", newline="", delete=False
    ) as new:
        new.write(text)
        # Who may read the document may read its stub
        os.fchmod(new.fileno(), mode)
    os.replace(new.name, path)
