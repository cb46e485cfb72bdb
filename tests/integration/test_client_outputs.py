"""What a job leaves: told by `describe`, fetched by `prominence download`, by plain curl, and refused by name."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.stacks import Ended, Stack

SCRIPT = 'sh -c "mkdir -p out/d; echo 42 > out/d/r.txt; seq 9 > a.dat; seq 8 > b.dat; head -c 3000000 /dev/zero > big"'


@pytest.fixture
def prominence(stack: Stack, tmp_path: Path) -> Callable[..., Ended]:
    """The client, in a folder and a home of its own."""

    def run(*arguments: str) -> Ended:
        return stack.run_cli(*arguments, cwd=tmp_path, HOME=str(tmp_path))

    return run


def made(done: Ended) -> int:
    assert done.code == 0, done
    [job] = re.findall(r"^Job created with id (\d+)$", done.stdout, re.MULTILINE)
    return int(job)


def test_outputs_are_described_and_downloaded(stack: Stack, prominence: Callable[..., Ended], tmp_path: Path) -> None:
    options = ["--output", "big", "--output", "*.dat", "--outputdir", "out/d"]
    job = made(prominence("create", *options, stack.image, SCRIPT))
    described = stack.wait(job)
    assert described["status"] == "completed", described
    assert described["execution"]["stageOutTime"] > 0
    shown = json.loads(prominence("describe", str(job)).stdout)
    sizes = {item["name"]: item["size"] for item in [*shown["outputFiles"], *shown["outputDirs"]]}
    assert sizes == {"big": 3_000_000, "a.dat": 18, "b.dat": 16, "out/d": sizes["out/d"]}
    done = prominence("download", str(job))
    assert done.code == 0, done
    assert "Current status (complete/total) = 4/4" in done.stdout
    assert (tmp_path / "big").read_bytes() == bytes(3_000_000)
    assert (tmp_path / "a.dat").read_text().split() == [str(n) for n in range(1, 10)]
    with tarfile.open(tmp_path / "d.tgz") as archive:
        assert archive.getnames() == ["d", "d/r.txt"]
    done = prominence("download", "--dir", str(job))
    assert done.code == 0, done
    assert sorted(path.name for path in (tmp_path / str(job)).iterdir()) == ["a.dat", "b.dat", "big", "d.tgz"]
    # the URL is all that is needed, and part of it can be asked for
    url = next(item["url"] for item in shown["outputFiles"] if item["name"] == "big")
    answer = subprocess.run(
        ["curl", "-sSf", "-r", "10-19", "-o", "part", "-w", "%{http_code}", url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (answer.stdout, (tmp_path / "part").read_bytes()) == ("206", bytes(10))


def test_a_missing_output_fails_the_job_and_says_what_is_there(stack: Stack, prominence: Callable[..., Ended]) -> None:
    job = made(prominence("create", "--output", "result.txt", stack.image, "touch results.txt"))
    described = stack.wait(job)
    assert (described["status"], described["statusReason"]) == (
        "failed",
        "Stageout failed due to no such file or directory",
    )
    assert described["outputFiles"] == [{"name": "result.txt", "url": ""}]
    rows = stack.psql("SELECT message FROM prominence_event WHERE job_id = %s ORDER BY id", job)
    story = "\n".join(message for (message,) in rows)
    assert "Output result.txt: no such file or directory; the job's home holds results.txt" in story


def test_a_failed_task_leaves_its_outputs(stack: Stack, prominence: Callable[..., Ended], tmp_path: Path) -> None:
    job = made(prominence("create", "--output", "o", stack.image, "sh -c 'echo kept > o; exit 7'"))
    described = stack.wait(job)
    assert (described["status"], described["execution"]["tasks"][0]["exitCode"]) == ("completed", 7)
    assert prominence("download", str(job)).code == 0
    assert (tmp_path / "o").read_text() == "kept\n"
