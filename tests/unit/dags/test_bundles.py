"""The bundle of the folder of documents: one stub a document, whatever else lies there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from airflow_prominence.dags import bundles
from airflow_prominence.dags.bundles import DropInBundle

JOB = "airflow: {owner: demo}\nresources: {cpus: 1, memory: 1}\ntasks: [{image: busybox}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    made.mkdir()
    return made


@pytest.fixture
def bundle(tmp_path: Path, folder: Path) -> DropInBundle:
    return DropInBundle(name="documents", documents=str(folder), stubs=str(tmp_path / "stubs"))


def stubs(bundle: DropInBundle) -> list[str]:
    return sorted(str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file())


def called(bundle: DropInBundle, stub: str) -> str:
    """The last line of a stub: what it does."""
    return (bundle.path / stub).read_text().strip().splitlines()[-1]


def test_one_stub_a_document(bundle: DropInBundle, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / ".git").mkdir()
    for name in ("a.yaml", "b.json", "sub/c.yml", ".hidden.yaml", ".git/d.yaml", "e.txt", "f.yaml~"):
        (folder / name).write_text(JOB)
    (folder / "g.yaml").symlink_to(folder / "a.yaml")
    bundle.initialize()
    assert stubs(bundle) == ["a.yaml.py", "b.json.py", "g.yaml.py", "sub/c.yml.py"]
    assert sorted(bundle.stub_files()) == stubs(bundle)
    assert called(bundle, "sub/c.yml.py") == "dag = dag_of(DOCUMENT, 'sub/c.yml')"
    assert JOB in (bundle.path / "a.yaml.py").read_text()


def test_what_is_unchanged_keeps_its_time(bundle: DropInBundle, folder: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (folder / name).write_text(JOB)
    bundle.refresh()
    before = {stub: (bundle.path / stub).stat() for stub in stubs(bundle)}
    (folder / "b.yaml").write_text(JOB + "# changed\n")
    os.utime(folder / "a.yaml")
    # Another process's bundle knows nothing of what this one has done
    DropInBundle(name="documents", documents=str(folder), stubs=str(bundle.path)).refresh()
    after = {stub: (bundle.path / stub).stat() for stub in stubs(bundle)}
    kept = [stub for stub in before if (before[stub].st_mtime_ns, before[stub].st_ino) == (
        after[stub].st_mtime_ns, after[stub].st_ino)]  # fmt: skip
    assert kept == ["a.yaml.py"]
    assert "# changed" in (bundle.path / "b.yaml.py").read_text()


def test_stubs_go_with_their_documents(bundle: DropInBundle, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.yaml").write_text(JOB)
    (folder / "b.yaml").write_text(JOB)
    bundle.refresh()
    for here in (bundle.path, bundle.path / "sub"):
        (here / "__pycache__").mkdir()
    (bundle.path / "sub" / "__pycache__" / "a.yaml.cpython-311.pyc").touch()
    (bundle.path / "__pycache__" / "b.yaml.cpython-311.pyc").touch()
    (bundle.path / ".left-by-a-crash").touch()
    (folder / "sub" / "a.yaml").unlink()
    bundle.refresh()
    assert stubs(bundle) == ["__pycache__/b.yaml.cpython-311.pyc", "b.yaml.py"]
    assert not (bundle.path / "sub").exists()


def test_a_folder_that_is_gone_takes_no_dag_away(bundle: DropInBundle, folder: Path) -> None:
    (folder / "a.yaml").write_text(JOB)
    bundle.refresh()
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        bundle.refresh()
    assert stubs(bundle) == ["a.yaml.py"]


def test_what_cannot_be_read_says_so_and_harms_nothing(
    bundle: DropInBundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_DOCUMENT_BYTES", 1_000_000)
    (folder / "a.yaml").write_bytes(b"# one\nname: \xff\n")
    (folder / "b.yaml").write_bytes(b"#" * 1_000_001)
    (folder / "c.yaml").mkdir()
    (folder / "d.yaml").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "e.yaml")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    os.close(os.open(os.fsencode(folder) + b"/\xff.yaml", os.O_CREAT))
    (folder / ("x" * 250 + ".yaml")).write_text(JOB)
    (folder / "good.yaml").write_text(JOB)
    bundle.refresh()
    assert called(bundle, "a.yaml.py") == "dag = refuse('a.yaml: line 2 is not valid UTF-8')"
    assert called(bundle, "b.yaml.py") == "dag = refuse('b.yaml: is larger than 1 MB')"
    assert called(bundle, "loop.yaml.py").startswith("dag = refuse('loop.yaml: cannot be read: ")
    assert called(bundle, "good.yaml.py") == "dag = dag_of(DOCUMENT, 'good.yaml')"
    assert stubs(bundle) == ["a.yaml.py", "b.yaml.py", "e.yaml.py", "good.yaml.py", "loop.yaml.py"]


def test_two_documents_of_one_dag(bundle: DropInBundle, folder: Path) -> None:
    (folder / "sweep.yaml").write_text(JOB)
    (folder / "copy.yaml").write_text(JOB.replace("owner: demo", "owner: demo, dag_id: sweep"))
    os.utime(folder / "sweep.yaml", (1, 1))
    bundle.refresh()
    assert called(bundle, "sweep.yaml.py") == "dag = dag_of(DOCUMENT, 'sweep.yaml')"
    assert called(bundle, "copy.yaml.py") == (
        "dag = refuse('copy.yaml: airflow.dag_id: sweep.yaml makes the DAG sweep already')"
    )
    (folder / "sweep.yaml").unlink()
    bundle.refresh()
    assert called(bundle, "copy.yaml.py") == "dag = dag_of(DOCUMENT, 'copy.yaml')"


def test_a_stub_is_as_private_as_its_document(bundle: DropInBundle, folder: Path) -> None:
    for name, mode in (("a.yaml", 0o600), ("b.yaml", 0o755)):
        (folder / name).write_text(JOB)
        (folder / name).chmod(mode)
    bundle.refresh()
    modes = [(bundle.path / stub).stat().st_mode & 0o777 for stub in stubs(bundle)]
    assert modes == [0o600, 0o644]
    (folder / "b.yaml").chmod(0o600)
    bundle.refresh()
    assert (bundle.path / "b.yaml.py").stat().st_mode & 0o777 == 0o600


def test_many_at_once(bundle: DropInBundle, folder: Path) -> None:
    for number in range(50):
        (folder / f"{number:02}.yaml").write_text(JOB)
    failures: list[Exception] = []

    def refresh() -> None:
        own = DropInBundle(name="documents", documents=str(folder), stubs=str(bundle.path))
        try:
            for _ in range(5):
                own.refresh()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert stubs(bundle) == [f"{number:02}.yaml.py" for number in range(50)]


def test_where_it_looks_if_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__PROMINENCE__DOCUMENTS_FOLDER", str(tmp_path))
    assert DropInBundle(name="documents").documents == tmp_path
    monkeypatch.setenv("AIRFLOW__PROMINENCE__DOCUMENTS_FOLDER", "")
    assert DropInBundle(name="documents").documents.name == "documents"
