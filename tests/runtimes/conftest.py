"""Runtimes as a node would have them. What is missing is installed in CI, elsewhere its tests say why they skip."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from airflow_prominence.agent.runtimes import RuntimeUnavailable, load

HERE = Path(__file__).parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that a job's user can reach, as pytest's own cannot be."""
    import tempfile

    from airflow_prominence.agent.images.tree import remove_tree

    folder = Path(tempfile.mkdtemp(prefix="prominence-runtimes-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    remove_tree(str(folder))


@pytest.fixture(scope="session")
def engine_dir(place: Path) -> str:
    return str(place / "engine")


@pytest.fixture(scope="session")
def usable(engine_dir: str, place: Path):  # type: ignore[no-untyped-def]
    """A function that makes sure that a runtime is there."""
    known: dict[str, str] = {}

    def ensure(name: str) -> str:
        if name not in known:
            if IN_CI or (name == "udocker" and os.geteuid() == 0):
                done = subprocess.run(
                    ["bash", str(HERE / "install.sh"), name, engine_dir], capture_output=True, text=True, check=False
                )
                if done.returncode != 0:
                    (pytest.fail if IN_CI else pytest.skip)(f"{name} cannot be installed: {done.stderr[-2000:]}")
            try:
                known[name] = load(name, engine_dir).probe()
            except RuntimeUnavailable as error:
                if IN_CI:
                    pytest.fail(str(error))
                pytest.skip(str(error))
        return known[name]

    return ensure
