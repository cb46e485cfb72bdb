"""A job's own token, from inside a real container: what it opens, what it does not, and that it dies with the job."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.manual.images import make_python_image
from tests.integration.stacks import Stack, until

# Runs in the container, with nothing but what a job gets.
INSIDE = r"""
import json, os, sys, time, urllib.error, urllib.request

BASE, TOKEN, JOB = (os.environ["PROMINENCE_" + name] for name in ("URL", "TOKEN", "JOB_ID"))

def ask(method, path, body=None):
    asked = urllib.request.Request(BASE + path, body, {"Authorization": "Bearer " + TOKEN}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()

def told(key):
    while True:
        status, value = ask("GET", "/kv/" + JOB + "/" + key)
        if status == 200:
            return value.decode()
        time.sleep(0.3)

said = {}
said["kv set"] = ask("POST", "/kv/" + JOB + "/token", TOKEN.encode())[0]
said["kv swap"] = ask("POST", "/kv/" + JOB + "/note?prev=", b"first")[0]
said["kv swap again"] = ask("POST", "/kv/" + JOB + "/note?prev=", b"second")[0]
said["kv list"] = json.loads(ask("GET", "/kv/" + JOB + "?list")[1])
document = {
    "name": "child",
    "resources": {"cpus": 1, "memory": 1, "disk": 1},
    "tasks": [{"image": sys.argv[1], "runtime": "singularity", "cmd": "echo from the child"}],
}
status, answer = ask("POST", "/jobs", json.dumps(document).encode())
said["submit"] = [status, json.loads(answer)["id"]]
said["list"] = [job["id"] for job in json.loads(ask("GET", "/jobs?all=true")[1])]
said["describe"] = json.loads(ask("GET", "/jobs/" + JOB)[1])[0]["status"]
key = "scratch/" + told("uid") + "/made/inside.txt"
status, answer = ask("POST", "/data/output", json.dumps({"name": key}).encode())
put = urllib.request.Request(json.loads(answer)["url"], b"put from inside", method="PUT")
said["output"] = [status, urllib.request.urlopen(put, timeout=30).status]
print(json.dumps(said), flush=True)
told("go")
"""


# What a user's job does when all of the user's tokens are revoked while it runs.
GOES_ON = (
    INSIDE.partition("said = {}")[0]
    + r"""
document = {
    "resources": {"cpus": 1, "memory": 1, "disk": 1},
    "tasks": [{"image": "prominence/demo:latest", "runtime": "singularity"}],
}
begun = ask("GET", "/kv?list")[0]
print(begun, flush=True)
end = time.time() + 120
while ask("GET", "/kv?list")[0] == 200 and time.time() < end:
    time.sleep(0.3)
asked = [ask("GET", "/kv?list"), ask("POST", "/jobs", json.dumps(document).encode()), ask("GET", "/jobs/" + JOB)]
with open("result", "w") as file:
    json.dump([(status, answer.decode()) for status, answer in asked], file)
"""
)


@pytest.fixture(scope="module")
def python(stack: Stack) -> str:
    return make_python_image(stack.places.images)


def test_it_works_from_inside_and_dies_with_the_job(stack: Stack, python: str, tmp_path: Path) -> None:
    job = stack.submit(
        {
            "name": "inside",
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "inputs": [{"filename": "inside.py", "content": base64.b64encode(INSIDE.encode()).decode()}],
            "tasks": [{"image": python, "runtime": "singularity", "cmd": f"python3 inside.py {stack.image}"}],
        }
    )
    [(uid,)] = stack.psql("SELECT uid FROM prominence_job WHERE id = %s", job)
    with stack.client() as owner:
        assert owner.post(f"/kv/{job}/uid", content=uid).status_code == 201
        try:
            said = _said(stack, job)
            child = said["submit"][1]
            assert said == {
                "kv set": 201,
                "kv swap": 201,
                "kv swap again": 400,
                "kv list": [f"/{job}/note", f"/{job}/token", f"/{job}/uid"],
                "submit": [201, child],
                "list": [job],
                "describe": "running",
                "output": [201, 201],
            }
            assert (stack.places.objects / f"objects/scratch/{uid}/made/inside.txt").read_bytes() == b"put from inside"
            bearer = owner.get(f"/kv/{job}/token").text
            assert stack.wait(child)["name"] == "child"
            assert stack.stdout(child) == b"from the child\n"
            _nothing_else_opens(stack, bearer, job, child)
        finally:
            owner.post(f"/kv/{job}/go", content="now")
        assert stack.wait(job)["execution"]["tasks"][0]["exitCode"] == 0
        _it_is_dead(stack, bearer, job)
        # Nor can the real client use it.
        done = stack.run_cli("kv", "list", token=bearer, cwd=tmp_path)
        assert (done.code, done.stdout) == (1, "Error: authentication failed\n")
        owner.delete(f"/kv/{job}/", params={"prefix": "true"})


def test_it_can_only_store_outputs_once_all_of_its_owners_tokens_are_revoked(stack: Stack, python: str) -> None:
    made = stack.run_airflow("prominence", "token", "mallory")
    assert made.code == 0, made
    document = {
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "inputs": [{"filename": "inside.py", "content": base64.b64encode(GOES_ON.encode()).decode()}],
        "tasks": [{"image": python, "runtime": "singularity", "cmd": "python3 inside.py"}],
        "outputFiles": ["result"],
    }
    mallory = made.stdout.strip()
    job = stack.submit(document, mallory)
    until(lambda: stack.stdout(job, mallory) == b"200\n", 90, what="the job runs, and its token works")
    done = stack.run_airflow("prominence", "token", "mallory", "--revoke-all")
    assert done.code == 0, done
    assert "1 token of mallory revoked.\nOne job of this user is not over and may still store outputs" in done.stderr
    ended = "SELECT status FROM prominence_job WHERE id = %s AND phase = 'done'"
    assert until(lambda: stack.psql(ended, job), 60, what="the job comes to its end") == [("completed",)]
    [(uid,)] = stack.psql("SELECT uid FROM prominence_job WHERE id = %s", job)
    refused = json.dumps({"error": "Authentication failure: all tokens of the job's owner were revoked"})
    told = json.loads((stack.places.objects / f"objects/scratch/{uid}/result").read_text())
    assert [(status, json.loads(answer)) for status, answer in told] == [(401, json.loads(refused))] * 3
    assert stack.psql("SELECT count(*) FROM prominence_job WHERE owner = 'mallory'") == [(1,)]
    again = stack.run_airflow("prominence", "token", "mallory").stdout.strip()
    [output] = stack.describe(job, again)["outputFiles"]
    assert output["size"] > 0


def _said(stack: Stack, job: int) -> dict[str, Any]:
    def printed() -> list[str]:
        described = stack.describe(job)
        assert described["status"] in ("pending", "running"), (described, stack.stdout(job, stream="stderr"))
        return re.findall(r"^\{.*\}$", stack.stdout(job).decode(), re.MULTILINE)

    [line] = until(printed, 90, what="the script in the container has asked for all")
    said: dict[str, Any] = json.loads(line)
    return said


def _nothing_else_opens(stack: Stack, bearer: str, job: int, child: int) -> None:
    """With the token in hand and the job still running."""
    [(lease,)] = stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s", job)
    [(node, other_uid)] = stack.psql(
        "SELECT l.node_id, j.uid FROM prominence_lease l JOIN prominence_job j ON j.id = l.job_id WHERE j.id = %s",
        child,
    )
    shut = [
        ("DELETE", f"/jobs/{job}"),
        ("DELETE", f"/jobs?id={child}"),
        ("PUT", f"/jobs/{child}/clone"),
        ("PUT", f"/jobs/{child}/remove"),
        ("GET", f"/jobs/{child}/stdout"),
        ("GET", f"/jobs/{job}/stdout"),
        ("GET", "/data"),
        ("POST", "/data/upload"),
        ("DELETE", "/data/x"),
        ("GET", "/accounting?start=2020-01-01&end=2030-01-01"),
        ("GET", "/resources"),
    ]
    with stack.client(bearer) as inside:
        for method, path in shut:
            answer = inside.request(method, path)
            assert answer.status_code == 403, (method, path, answer.text)
            assert list(answer.json()) == ["error"]
        assert inside.get(f"/jobs/{child}").json() == []
        answer = inside.post("/data/output", json={"name": f"scratch/{other_uid}/x"})
        assert (answer.status_code, answer.json()) == (400, {"error": "name: is not below the job's own folder"})
    headers = {"Authorization": f"Bearer {bearer}"}
    internal = [
        ("POST", f"/leases/{lease}/reports"),
        ("PUT", f"/leases/{lease}/streams/stdout?offset=0"),
        ("POST", "/nodes"),
        ("POST", f"/nodes/{node}/poll"),
        ("POST", f"/nodes/{node}/lost"),
        ("GET", f"/jobs/{job}"),
        ("POST", f"/jobs/{job}/claim"),
        ("POST", f"/jobs/{job}/stage_out"),
        ("POST", "/commands/any/place"),
        ("POST", "/maintenance"),
    ]
    with httpx.Client(base_url=stack.internal_url, headers=headers, timeout=30, trust_env=False) as http:
        for method, path in internal:
            assert http.request(method, path, json={}).status_code == 403, (method, path)
    with httpx.Client(base_url=stack.airflow_url, headers=headers, timeout=30, trust_env=False) as http:
        for path in ("/api/v2/dags", "/api/v2/connections", "/execution/connections/any", "/execution/variables/any"):
            assert http.get(path).status_code in (401, 403), path


def _it_is_dead(stack: Stack, bearer: str, job: int) -> None:
    with stack.client(bearer) as inside:
        for method, path in (
            ("GET", "/kv?list"),
            ("POST", "/kv/late"),
            ("POST", "/data/output"),
            ("POST", "/jobs"),
            ("GET", f"/jobs/{job}"),
        ):
            answer = inside.request(method, path, json={})
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json() == {"error": "Authentication failure: the job's attempt is over"}
