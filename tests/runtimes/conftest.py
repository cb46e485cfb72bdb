"""Runtimes as a node would have them. What is missing is installed in CI, elsewhere its tests say why they skip."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import airflow_prominence.agent as agent
from airflow_prominence.agent.images.tree import remove_tree
from airflow_prominence.agent.runtimes import RuntimeUnavailable, load
from tests.runtimes import conformance

HERE = Path(__file__).parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that a job's user can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="prominence-runtimes-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    load("podman", str(folder / "engine")).forget()
    remove_tree(str(folder))


@pytest.fixture(scope="session")
def engine_dir(place: Path) -> str:
    return str(place / "engine")


@pytest.fixture(scope="session")
def images(place: Path) -> str:
    folder = str(place / "images")
    conformance.write_images(folder)
    return folder


@pytest.fixture(scope="session")
def code(place: Path) -> Path:
    """The agent and the table of checks where every user and every Python can read them, as on a node."""
    folder = place / "code"
    shutil.copytree(Path(agent.__file__).parent, folder / "airflow_prominence" / "agent")
    (folder / "airflow_prominence" / "__init__.py").touch()
    for name in ("conformance.py", "jobs.py", "sifwriter.py"):
        shutil.copy(HERE / name, folder / name)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def install(engine_dir: str) -> Callable[[str], None]:
    """A function that installs a runtime, or ends the test with what is missing."""

    def run(name: str) -> None:
        argv = ["bash", str(HERE / "install.sh"), name, engine_dir]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            (pytest.fail if IN_CI else pytest.skip)(f"{name} cannot be installed: {done.stderr[-2000:]}")

    return run


@pytest.fixture(scope="session")
def usable(engine_dir: str, install: Callable[[str], None]) -> Callable[[str], str]:
    """A function that makes sure that a runtime is there, and says its version."""
    known: dict[str, str] = {}

    def ensure(name: str) -> str:
        if name not in known:
            if IN_CI or (name == "udocker" and os.geteuid() == 0):
                install(name)
            try:
                known[name] = load(name, engine_dir).probe()
            except RuntimeUnavailable as error:
                (pytest.fail if IN_CI else pytest.skip)(str(error))
        return known[name]

    return ensure
