"""What is refused beyond the schema, in which words, and what the defaults are."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest

from airflow_prominence.documents import (
    Artifact,
    DocumentError,
    Job,
    Limits,
    Placement,
    Policies,
    Resources,
    Task,
    artifact_file_name,
    normalise,
    parse_job,
)

JOB: dict[str, Any] = {"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": "busybox", "cmd": "date"}]}


def job(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(JOB), **changes}


def resources(**changes: Any) -> dict[str, Any]:
    given = {"cpus": 1, "memory": 1, **changes}
    return job(resources={key: value for key, value in given.items() if value is not None})


def task(**changes: Any) -> dict[str, Any]:
    return job(tasks=[{"image": "busybox", **changes}])


def inputs(*files: tuple[str, str]) -> dict[str, Any]:
    return job(inputs=[{"filename": name, "content": content} for name, content in files])


def storage(**changes: Any) -> dict[str, Any]:
    given = {"type": "onedata", "mountpoint": "/data", "onedata": {"provider": "p", "token": "t"}, **changes}
    return job(storage={key: value for key, value in given.items() if value is not None})


def base64_of(size: int) -> str:
    return base64.b64encode(b"x" * size).decode()


_ONECLIENT = (
    "--force-fullblock-read, --force-proxy-io, --insecure, --metadata-cache-size, --no-buffer, --provider-timeout, "
    "--read-buffer-max-size, --read-buffer-min-size, --read-buffer-prefetch-duration, --space, --space-id, "
    "--write-buffer-flush-delay, --write-buffer-max-size, --write-buffer-min-size, -i"
)

REFUSED: list[tuple[Any, str]] = [
    ([], "the job must be an object, not a list"),
    (None, "the job must be an object, not null"),
    ({}, "resources: is missing"),
    (job(task=[]), "task: is not a known key (did you mean tasks?)"),
    ({"resources": JOB["resources"], "taks": []}, "taks: is not a known key (did you mean tasks?)"),
    (job(**{"a\nb": 1}), '["a\\nb"]: is not a known key'),
    (job(**{"x" * 100: 1}), '["' + "x" * 59 + '…"]: is not a known key'),
    (job(name="x" * 513), "name: is too long: at most 512 characters are allowed"),
    (job(name="naïve"), "name: may hold only letters, digits, spaces and the characters - _ . /"),
    (job(name="a\n"), "name: may hold only letters, digits, spaces and the characters - _ . /"),
    (job(labels={"k" * 64: "v"}), "labels." + "k" * 64 + ": is too long: at most 63 characters are allowed"),
    (job(labels={"k": "v" * 64}), "labels.k: is too long: at most 63 characters are allowed"),
    (job(labels={"": "v"}), 'labels[""]: must not be empty'),
    (
        job(labels={"k": 'v" || true'}),
        "labels.k: is not a valid label value: only letters, digits and - _ . / are allowed",
    ),
    (job(labels={"k": 1}), "labels.k: must be a string, not 1"),
    (resources(gpu=1), "resources.gpu: is not a known key"),
    (resources(cpu=1), "resources.cpu: is not a known key (did you mean cpus?)"),
    (resources(cpus=None), "resources: must give cpus, cpusRange or cpusOptions"),
    (resources(cpus=True), "resources.cpus: must be an integer, not true"),
    (resources(cpus="1e3"), "resources.cpus: must be an integer, not a string"),
    (resources(cpus=-1), "resources.cpus: must be at least 1"),
    (resources(cpus=1025), "resources.cpus: must be at most 1024"),
    (resources(cpus=1.5), "resources.cpus: must be an integer, not 1.5"),
    (resources(cpusRange=[1, 2], cpusOptions=[1, 2]), "resources: cannot give both cpusRange and cpusOptions"),
    (resources(cpusRange=[2, 1]), "resources.cpusRange: must give the smaller number first"),
    (resources(cpusRange=[1, 2000]), "resources.cpusRange: must be at most 1024"),
    (resources(cpusRange=[1, 2, 3]), "resources.cpusRange: must have at most 2 items"),
    (resources(cpusRange=[1]), "resources.cpusRange: must have at least 2 items"),
    (resources(cpusRange=[1, True]), "resources.cpusRange[1]: must be an integer, not true"),
    (resources(totalCpusRange=[1, 2000]), "resources.totalCpusRange: needs 2000 nodes, and at most 1000 are allowed"),
    (resources(nodes=2, totalCpusRange=[1, 2]), "resources.nodes: cannot be given together with totalCpusRange"),
    (resources(memory=None), "resources: must give memory or memoryPerCpu"),
    (resources(memoryPerCpu=1), "resources: cannot give both memory and memoryPerCpu"),
    (resources(memory=2_000_000), "resources.memory: must be at most 1000000"),
    (
        resources(cpus=1000, memory=None, memoryPerCpu=2000),
        "resources.memoryPerCpu: makes more than 1000000 GB per node",
    ),
    (resources(nodes=1001), "resources.nodes: must be at most 1000"),
    (resources(disk=0), "resources.disk: must be at least 1"),
    (resources(walltime=10**9), "resources.walltime: must be at most 44640"),
    (job(tasks={}), "tasks: must be a list, not an object"),
    (job(tasks=[]), "tasks: must not be empty"),
    (job(tasks=["busybox"]), "tasks[0]: must be an object, not a string"),
    (job(tasks=[{"cmd": "date"}]), "tasks[0].image: is missing"),
    (task(type="sidecar"), "tasks: must hold a task that is not a sidecar"),
    (
        job(notifications=[{"event": "jobFinish", "type": "email"}]),
        'notifications[0].event: must be "jobFinished", not "jobFinish" (did you mean jobFinished?)',
    ),
    (
        task(type="x"),
        'tasks[0].type: must be "basic", "sidecar", "openmpi", "mpich" or "intelmpi", not "x"',
    ),
    (
        task(runtime="docker"),
        'tasks[0].runtime: must be "singularity" or "udocker", not "docker" (did you mean udocker?)',
    ),
    (task(image=""), "tasks[0].image: must not be empty"),
    (task(image="-v"), "tasks[0].image: must not start with -"),
    (task(image="busybox latest"), "tasks[0].image: must not contain white space or control characters"),
    (task(image="busybox\u00a0"), "tasks[0].image: must not contain white space or control characters"),
    (task(image="../x.tar"), "tasks[0].image: must not contain .. as a part of the path"),
    (
        task(image="file:///etc/passwd"),
        'tasks[0].image: cannot start with "file://": only http, https and shub URLs and plain names are known',
    ),
    (task(image="http://169.254.169.254/x.tar"), "tasks[0].image: must not name a link-local address"),
    (task(image="shub://a/b", runtime="udocker"), "tasks[0].runtime: udocker cannot run a Singularity image"),
    (
        task(image="https://a.example/b.sif?x=1", runtime="udocker"),
        "tasks[0].runtime: udocker cannot run a Singularity image",
    ),
    (task(app="a", runtime="udocker"), "tasks[0].app: cannot be given when runtime is udocker"),
    (task(cmd=""), "tasks[0].cmd: must not be empty"),
    (task(cmd="  \n"), "tasks[0].cmd: must name a command"),
    (task(cmd="'' x"), "tasks[0].cmd: must name a command"),
    (task(cmd='echo "x'), "tasks[0].cmd: cannot be split into words: no closing quotation"),
    (task(cmd="echo \\"), "tasks[0].cmd: cannot be split into words: no escaped character"),
    (task(cmd="echo \0"), "tasks[0].cmd: cannot hold a NUL character"),
    (task(cmd="echo " + "x" * 131_072), "tasks[0].cmd: has a word longer than 131070 bytes"),
    (task(cmd="echo " + "x " * 600_000), "tasks[0]: cmd and env are together larger than 1000000 bytes"),
    (task(type="openmpi"), "tasks[0].cmd: is missing: a task of type openmpi needs a command"),
    (task(type="mpich", cmd="mpirun -n 4 x"), "tasks[0].cmd: must not start with mpirun, which is added for you"),
    (
        task(type="mpich", cmd="x", procsPerNode=2),
        "tasks[0].procsPerNode: must be at most the number of CPUs per node, 1",
    ),
    (task(env=["A=b"]), "tasks[0].env: must be an object, not a list"),
    (task(env={"A": None}), "tasks[0].env.A: must be a string, a number or true or false, not null"),
    (task(env={"A": {"b": 1}}), "tasks[0].env.A: must be a string, a number or true or false, not an object"),
    (task(env={"A=B": "c"}), 'tasks[0].env["A=B"]: is not a valid name of an environment variable'),
    (task(env={"1A": "c"}), "tasks[0].env.1A: is not a valid name of an environment variable"),
    (task(env={"A\n": "c"}), 'tasks[0].env["A\\n"]: is not a valid name of an environment variable'),
    (task(env={"": "c"}), 'tasks[0].env[""]: is not a valid name of an environment variable'),
    (
        task(env={"PROMINENCE_TOKEN": "x"}),
        "tasks[0].env.PROMINENCE_TOKEN: cannot be set: names starting with PROMINENCE_ are reserved",
    ),
    (task(env={"A": "x" * 131_072}), "tasks[0].env: has a variable longer than 131070 bytes"),
    (task(workdir="a/../../b"), "tasks[0].workdir: must not contain .. as a part of the path"),
    (task(stdout="/x"), "tasks[0].stdout: must not be an absolute path"),
    (task(stdout="."), "tasks[0].stdout: must name a file or folder"),
    (task(imagePullCredential={"username": "u"}), "tasks[0].imagePullCredential.token: is missing"),
    (inputs(("", "")), "inputs[0].filename: must not be empty"),
    (inputs(("..", "")), "inputs[0].filename: must be a plain file name without folders"),
    (inputs((".", "")), "inputs[0].filename: must be a plain file name without folders"),
    (inputs(("/etc/passwd", "")), "inputs[0].filename: must be a plain file name without folders"),
    (inputs(("a/b", "")), "inputs[0].filename: must be a plain file name without folders"),
    (inputs(("é" * 128, "")), "inputs[0].filename: is longer than 255 bytes"),
    (
        inputs(("a", ""), ("b", ""), ("a", "")),
        "inputs[2].filename: is the same as that of inputs[0]: two files cannot have one name (duplicate)",
    ),
    (inputs(("a", "!!!!")), "inputs[0].content: is not valid base64"),
    (inputs(("a", "aGk")), "inputs[0].content: is not valid base64"),
    (inputs(("a", "aGké")), "inputs[0].content: is not valid base64"),
    (
        inputs(("a", base64_of(1_000_001))),
        "inputs[0].content: is too large: at most 1000000 bytes are allowed in one input",
    ),
    (job(inputs=["file://x"]), "inputs[0]: must be an object, not a string"),
    (job(artifacts=[{}]), "artifacts[0].url: is missing"),
    (job(artifacts=[{"url": "file:///etc/passwd"}]), 'artifacts[0].url: must be an http or https URL, not "file"'),
    (job(artifacts=[{"url": "http://169.254.169.254/latest"}]), "artifacts[0].url: must not name a link-local address"),
    (job(artifacts=[{"url": "http://[fe80::1]/"}]), "artifacts[0].url: must not name a link-local address"),
    (job(artifacts=[{"url": "http://[::1"}]), "artifacts[0].url: is not a valid URL"),
    (job(artifacts=[{"url": "http:///x"}]), "artifacts[0].url: has no host name"),
    (job(artifacts=[{"url": "../other/x"}]), "artifacts[0].url: must not contain .. as a part of the path"),
    (job(artifacts=[{"url": "/x"}]), "artifacts[0].url: must not be an absolute path"),
    (job(artifacts=[{"url": "x", "mountpoint": "a/b:/c"}]), "artifacts[0].mountpoint: must be FOLDER:/absolute/path"),
    (
        job(artifacts=[{"url": "x", "mountpoint": "..:/c"}]),
        "artifacts[0].mountpoint: must start with the name of a folder",
    ),
    (
        job(artifacts=[{"url": "x", "mountpoint": "a:/c/../.."}]),
        "artifacts[0].mountpoint: must not contain .. as a part of the path",
    ),
    (
        job(artifacts=[{"url": "x", "mountpoint": "a:/./"}]),
        "artifacts[0].mountpoint: cannot be the root of the container",
    ),
    (
        job(artifacts=[{"url": "x", "mountpoint": "a:/home//user/"}]),
        "artifacts[0].mountpoint: cannot be /home/user, which every container has already",
    ),
    (
        job(artifacts=[{"url": "x", "mountpoint": "a:/proc/self"}]),
        "artifacts[0].mountpoint: cannot be /proc/self, which every container has already",
    ),
    (
        job(artifacts=[{"url": "x", "mountpoint": "a:/d"}, {"url": "y", "mountpoint": "b:/d/"}]),
        "artifacts[1].mountpoint: is the same as that of artifacts[0] (duplicate)",
    ),
    (
        job(artifacts=[{"url": "https://u:p@host/x"}]),
        "artifacts[0].url: must not hold a user name or password: use a presigned URL or an upload",
    ),
    # what the released client makes of --artifact https://host/x.tgz:dir:/mnt, the path being lost
    (
        job(artifacts=[{"url": "https", "mountpoint": "//host/x.tgz:dir"}]),
        (
            "artifacts[0].mountpoint: must be FOLDER:/absolute/path; the prominence command loses it after a URL, so "
            "submit such an artifact in a JSON document (prominence run)"
        ),
    ),
    (job(outputFiles=["x" * 1025]), "outputFiles[0]: is longer than 1024 bytes"),
    (job(outputFiles=["../x"]), "outputFiles[0]: must not contain .. as a part of the path"),
    (job(outputFiles=["/etc/passwd"]), "outputFiles[0]: must not be an absolute path"),
    (job(outputFiles=["./"]), "outputFiles[0]: must name a file or folder"),
    (job(outputFiles=["a/x", "b/x"]), 'outputFiles[1]: would be kept as "x", as outputFiles[0] would (duplicate)'),
    (
        job(outputFiles=["x.tgz"], outputDirs=["a/x/"]),
        'outputDirs[0]: would be kept as "x.tgz", as outputFiles[0] would (duplicate)',
    ),
    (storage(onedata=None), "storage.onedata: is missing"),
    (storage(mountpoint="/"), "storage.mountpoint: cannot be the root of the container"),
    (storage(mountpoint="/../x"), "storage.mountpoint: must not contain .. as a part of the path"),
    (storage(mountpoint="/tmp/"), "storage.mountpoint: cannot be /tmp, which every container has already"),
    (storage(mountpoint="/proc/self"), "storage.mountpoint: cannot be /proc/self, which every container has already"),
    (
        {**storage(), "artifacts": [{"url": "x.tgz", "mountpoint": "x:/data/x"}]},
        "artifacts[0].mountpoint: takes /data/x, and storage.mountpoint is /data: one would hide the other",
    ),
    (
        {**storage(mountpoint="/data/deep//down/"), "artifacts": [{"url": "x.tgz", "mountpoint": "x:/data"}]},
        "artifacts[0].mountpoint: takes /data, and storage.mountpoint is /data/deep/down: one would hide the other",
    ),
    (
        {**storage(mountpoint="/home/user/x"), "artifacts": [{"url": "x.tgz", "mountpoint": "x:/mesh"}]},
        "artifacts[0].mountpoint: takes /home/user/x, and storage.mountpoint is /home/user/x: one would hide the other",
    ),
    (task(image="/data/i.sif"), "tasks[0].image: is a path on attached storage, but the job has no storage"),
    (
        {**storage(), "tasks": [{"image": "/database/i.sif"}]},
        "tasks[0].image: is not on the job's storage, which is mounted at /data",
    ),
    (
        storage(onedata={"provider": "https://p.example", "token": "t"}),
        "storage.onedata.provider: must be a host name, without scheme, port and path",
    ),
    (
        storage(onedata={"provider": "169.254.169.254", "token": "t"}),
        "storage.onedata.provider: must not name a link-local address",
    ),
    *(
        (
            storage(onedata={"provider": "p", "token": "t", "options": options}),
            f'storage.onedata.options: cannot hold "{name}": allowed are {_ONECLIENT}',
        )
        for options, name in (
            ("-i --log-dir /etc", "--log-dir"),
            ("--config=/etc/x", "--config"),
            ("--space Mine -o suid", "-o"),
            ("--force-direct-io", "--force-direct-io"),
            ("--space A B /etc", "B"),
        )
    ),
    (
        storage(onedata={"provider": "p", "token": "t", "options": "--space --insecure"}),
        "storage.onedata.options: --space lacks its value",
    ),
    (
        storage(onedata={"provider": "p", "token": "t", "options": "--space 'My"}),
        "storage.onedata.options: has a quotation mark that is not closed",
    ),
    (
        storage(type="webdav", onedata=None, webdav={"url": "https://u:p@x.example", "username": "u", "password": "p"}),
        "storage.webdav.url: must not hold a user name or password: they have keys of their own",
    ),
    (storage(b2drop={"app-username": "u", "app-password": "p"}), "storage: cannot hold b2drop when type is onedata"),
    (storage(type="webdav"), "storage.webdav: is missing"),
    (
        storage(directory="/out"),
        "storage.directory: is for outputs that go to this storage, and they do only if storage.default is true",
    ),
    (
        storage(default=True, directory="out/../.."),
        "storage.directory: must not contain .. as a part of the path",
    ),
    (
        storage(default=True, directory="a/" + "x" * 256),
        "storage.directory: has a part that is longer than 255 bytes",
    ),
    (
        {**storage(default=True), "outputFiles": ["a"]},
        "storage.directory: is missing: outputs need a folder on OneData, which begins with the name of a space",
    ),
    (
        {**storage(default=True, directory="/."), "outputDirs": ["a"]},
        "storage.directory: is missing: outputs need a folder on OneData, which begins with the name of a space",
    ),
    (
        {**storage(default=True), "artifacts": [{"url": "/space/../x"}]},
        "artifacts[0].url: must not contain .. as a part of the path",
    ),
    (
        storage(type="webdav", onedata=None, webdav={"url": "http://169.254.1.1", "username": "u", "password": "p"}),
        "storage.webdav.url: must not name a link-local address",
    ),
    (
        job(policies={"ignoreTaskFailures": True, "ignoreTaskTailures": True}),
        "policies: cannot give both ignoreTaskFailures and its misspelling ignoreTaskTailures",
    ),
    (
        job(policies={"autoScalingType": "all"}),
        'policies.autoScalingType: must be null, "none", "dedicated" or "shared", not "all"',
    ),
    (job(notifications=[{"event": "jobFinished", "type": "sms"}]), 'notifications[0].type: must be "email", not "sms"'),
]


@pytest.mark.parametrize(("document", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_name_the_path_in_one_sentence(document: Any, sentence: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        parse_job(document)
    assert str(refusal.value) == sentence


def test_defaults() -> None:
    assert parse_job({"resources": {"cpus": 2, "memory": 1.5}, "tasks": [{"image": "busybox"}]}) == Job(
        name="",
        resources=Resources(cpus=2, nodes=1, disk=10, walltime=720, memory=1.5),
        tasks=(Task(image="busybox", runtime="singularity"),),
        policies=Policies(maximum_time_in_queue=0, priority=0),
    )


@pytest.mark.parametrize(
    ("image", "runtime"),
    [
        ("busybox", "singularity"),
        ("registry.example/a/b:1.tar.x", "singularity"),
        ("shub://user/repo:tag", "singularity"),
        ("https://x.example/a.sif", "singularity"),
        ("https://x.example/a.simg?sig=b.tar", "singularity"),
        ("https://x.example/a.tar", "udocker"),
        ("https://x.example/a.tgz?sig=1", "udocker"),
        ("centos7.tar", "udocker"),
        ("centos7.sif", "singularity"),
        ("/data/image.tar", "udocker"),
    ],
)
def test_the_runtime_follows_from_the_image(image: str, runtime: str) -> None:
    assert parse_job({**storage(), "tasks": [{"image": image}]}).tasks[0].runtime == runtime


def test_environment_values_become_text() -> None:
    env = {"S": "a b", "I": 4, "F": 4.5, "W": 1.0, "T": True, "N": False, "_x1": ""}
    assert parse_job(task(env=env)).tasks[0].env == {
        "S": "a b", "I": "4", "F": "4.5", "W": "1.0", "T": "true", "N": "false", "_x1": "",
    }  # fmt: skip


def test_what_the_released_client_sends_beside_ranges_gives_way() -> None:
    given = parse_job(resources(nodes=1, cpusRange=[4, 8], totalCpusRange=[16, 32])).resources
    assert (given.cpus, given.max_cpus, given.nodes) == (4, 8, 4)
    options = parse_job(resources(cpusOptions=[16, 8])).resources
    assert (options.cpus, options.max_cpus, options.nodes) == (8, 16, 1)


def test_memory_in_megabytes() -> None:
    assert parse_job(resources(memory=1.5)).resources.memory_mb() == 1536
    per_cpu = parse_job(resources(cpus=4, memory=None, memoryPerCpu=2.5)).resources
    assert (per_cpu.memory_mb(), per_cpu.memory_mb(8)) == (10240, 20480)
    assert per_cpu.walltime_s == 43200
    assert per_cpu.disk_mb == 10240


def test_whole_floats_are_integers() -> None:
    given = parse_job(resources(cpus=2.0, disk=20.0, walltime=10.0)).resources
    assert [type(number) for number in (given.cpus, given.disk, given.walltime)] == [int] * 3


def test_the_largest_input_fits_and_wrapped_lines_are_joined() -> None:
    assert parse_job(inputs(("a", base64_of(1_000_000)))).inputs[0].size == 1_000_000
    wrapped = parse_job(inputs(("a", base64.encodebytes(b"x" * 100).decode()))).inputs[0]
    assert wrapped.content == base64_of(100)


def test_limits_are_settings() -> None:
    small = Limits(max_cpus=2, max_nodes=2, max_memory_gb=4, max_disk_gb=20, max_walltime_minutes=60, max_input_bytes=3)
    fits = resources(cpus=2, nodes=2, memory=4, disk=20, walltime=60)
    assert parse_job({**fits, "inputs": [{"filename": "a", "content": "YWJj"}]}, small).inputs[0].size == 3
    assert parse_job(JOB, small).resources.walltime == 60
    for key, value in (("cpus", 3), ("nodes", 3), ("memory", 4.5), ("disk", 21), ("walltime", 61)):
        with pytest.raises(DocumentError, match=rf"^resources\.{key}: must be at most"):
            parse_job(resources(**{key: value}), small)
    with pytest.raises(DocumentError, match="at most 3 bytes"):
        parse_job(inputs(("a", base64_of(4))), small)


def test_policies_and_placement() -> None:
    given = parse_job(
        job(
            policies={
                "maximumRetries": 0,
                "maximumTimeInQueue": 44640,
                "ignoreTaskTailures": True,
                "autoScalingType": "none",
                "placement": {"requirements": {"regions": ["Alpha"]}, "preferences": {"sites": ["A", "B"]}},
            }
        )
    ).policies
    assert given == Policies(
        maximum_time_in_queue=44640,
        ignore_task_failures=True,
        placement=Placement(required_regions=("Alpha",), preferred_sites=("A", "B")),
    )
    assert given.max_attempts == 1


def test_texts_are_data() -> None:
    text = "{{ ds }} {% raw %} $(id) `id` ; & | > <\n\t'\"\\ é😀 $HOME ${x} %s {0}"
    parsed = parse_job(task(cmd="echo " + json.dumps(text).replace("$", "\\$").replace("`", "\\`"), env={"A": text}))
    assert parsed.tasks[0].env["A"] == text


def test_secrets_do_not_show_in_repr() -> None:
    given = storage()
    given["tasks"][0]["imagePullCredential"] = {"username": "someone", "token": "hunter2"}
    given["storage"]["onedata"]["token"] = "hunter3"
    parsed = parse_job(given)
    assert "hunter" not in repr(parsed)
    assert "someone" not in repr(parsed)
    assert parsed.tasks[0].credential is not None
    assert parsed.tasks[0].credential.token == "hunter2"


def test_values_are_frozen_and_errors_survive_a_process_border() -> None:
    parsed = parse_job(JOB)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(parsed)) == parsed
    error = pickle.loads(pickle.dumps(DocumentError("tasks", "is missing")))
    assert (error.path, error.sentence, str(error)) == ("tasks", "is missing", "tasks: is missing")


def test_a_port_of_an_artifacts_url_is_not_a_mount_point() -> None:
    """What the released client makes of ``--artifact http://host:8080/data/x.tgz``."""
    sent = job(artifacts=[{"url": "http", "mountpoint": "//host:8080/data/x.tgz", "executable": True}])
    assert parse_job(sent).artifacts == (Artifact("http://host:8080/data/x.tgz", None, True),)
    shown = normalise(sent)["artifacts"]
    assert shown == [{"url": "http://host:8080/data/x.tgz", "executable": True}]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("data.tgz", "data.tgz"),
        ("group/sub/data.tgz", "data.tgz"),
        ("https://a.example/d/data.tgz", "data.tgz"),
        ("https://a.example/d/data.tgz?download=1#part", "data.tgz"),
        ("https://a.example/a%20b%C3%A9.txt", "a b\u00e9.txt"),
        ("https://a.example/d/", "d"),
        ("https://a.example/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://a.example/%2e%2e", "artifact"),
        ("https://a.example", "artifact"),
        ("https://a.example/%00x", "x"),
        ("https://a.example/" + "\u00e9" * 200 + ".tgz", "\u00e9" * 125 + ".tgz"),
    ],
)
def test_an_artifacts_file_name(url: str, name: str) -> None:
    assert artifact_file_name(url) == name
