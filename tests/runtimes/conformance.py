"""What a container is to a job, as one table: every runtime must give these answers, whatever command serves it."""

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_prominence.agent.images.build import Entry, ImageConfig, layer, write_archive
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.demo import REQUIRED, base_entries, busybox_entries, find_busybox, host_entries
from airflow_prominence.agent.runtimes import load
from airflow_prominence.agent.runtimes.files import make_folder

from jobs import Job, job_user  # isort: skip  (this folder is on the path: another Python starts this, too)
from sifwriter import sif, squashfs  # isort: skip

IMAGE = "conformance/one:1"
OTHER = "conformance/two:1"
BARE = "conformance/bare:1"
PODMAN = "conformance/podman:1"
SINGULARITY = "/conformance.sif"
WITHOUT_BASE = "/conformance-without-base.sif"
WORDS = [
    "two  words",
    "",
    "'single' \"double\"",
    "line\nbreak",
    "{{ ds }} {% x %}",
    "$(id) `id` $HOME ${A}",
    "🚀 ü",
    "*",
    "-n",
    "\\t",
]
BYTES = bytes(range(256)) * 40

_ARGS = 'printf "%s\\0" "$@"'

_BASE = ".singularity.d/env/99-base.sh"

# What Singularity's own build writes, as far as it matters; the app's part is from its 95-apps.sh.
_SCRIPTS = {
    ".singularity.d/env/10-docker2singularity.sh": 'export PATH="/opt/bin:/bin"\nexport BOTH="${BOTH:-image}"\n',
    # images that a Singularity of version 2.4 or younger has built have it, and apptainer relies on it
    _BASE: "#!/bin/sh\n",
    ".singularity.d/env/90-environment.sh": 'export FROM_IMAGE="image value"\nexport OVER=image\nexport HOME=/root\n',
    ".singularity.d/env/95-apps.sh": '[ -z "$SINGULARITY_APPNAME" ] || export APP="/scif/apps/$SINGULARITY_APPNAME"\n',
    ".singularity.d/runscript": '#!/bin/sh\necho runscript "$@" "$FROM_IMAGE"\n',
    "scif/apps/tool/scif/runscript": '#!/bin/sh\necho "$APP" "$@"\n',
}


def write_images(folder: str) -> None:
    """One image with everything set, a second, one without ENTRYPOINT, and a Singularity image."""
    make_folder(folder)
    busybox = find_busybox()
    tools = busybox_entries(busybox) if busybox else host_entries([*REQUIRED, "printf", "tr", "od"])
    extra = [
        Entry("opt/mark", 0o644, b"one\n"),
        Entry("opt/bin/hello", 0o755, b"#!/bin/sh\necho hello from $0\n"),
        Entry("opt/bin/plain", 0o644, b"#!/bin/sh\n"),
        Entry("opt/bin/lost", 0o755, b"#!/no/such/interpreter\n"),
        Entry("data.bin", 0o644, BYTES),
    ]
    config = ImageConfig(
        entrypoint=["/bin/sh", "-c", 'echo entry "$@"', "entry"],
        cmd=["a b", "c"],
        env={"PATH": "/opt/bin:/usr/bin:/bin", "FROM_IMAGE": "image value", "BOTH": "image"},
        workdir="/opt",
    )
    base = layer([*base_entries(), *tools])
    write_archive(os.path.join(folder, "one.tar"), [IMAGE], config, [base, layer(extra)])
    other = layer([Entry("opt/mark", 0o644, b"two\n")])
    write_archive(os.path.join(folder, "two.tar"), [OTHER], ImageConfig(cmd=["cat", "/opt/mark"]), [base, other])
    write_archive(os.path.join(folder, "bare.tar"), [BARE], ImageConfig(), [base])
    _as_podman(os.path.join(folder, "two.tar"), os.path.join(folder, "podman.tar"))
    scripts = [Entry(path, 0o755, text.encode()) for path, text in _SCRIPTS.items()]
    older = [entry for entry in scripts if entry.path != _BASE]
    for name, entries in ((SINGULARITY, scripts), (WITHOUT_BASE, older)):
        with open(folder + name, "wb") as file:
            file.write(sif(squashfs([*base_entries(), *tools, *extra, *entries])))


def _as_podman(source: str, target: str) -> None:
    """The layout of podman and skopeo: layers by digest, old names as links to them, names with their registry."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            data = old.extractfile(member)
            assert data is not None
            content = data.read()
            if member.name == "manifest.json":
                content = content.replace(OTHER.encode(), ("docker.io/" + PODMAN).encode())
            name = member.name
            if name.endswith("/layer.tar"):
                name = member.name.split("/")[0] + ".tar"
                link = tarfile.TarInfo(member.name)
                link.type, link.linkname = tarfile.SYMTYPE, "../" + name
                new.addfile(link)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))


@dataclass(frozen=True)
class Check:
    name: str
    see: Callable[[Job], Any]
    expected: Any


def _sh(job: Job, script: str, *args: str, **changes: Any) -> str:
    done = job.run(IMAGE, ["sh", "-c", script, "sh", *args], **changes)
    return done.text if done.code == 0 else f"exit {done.code}: {done.err.decode()}"


def _arguments(job: Job) -> list[str]:
    return _sh(job, _ARGS, *WORDS).split("\0")[:-1]


def _variables(job: Job) -> list[str]:
    values = {
        "SPACE": "  a b ",
        "LINES": "x\ny\n",
        "QUOTES": "'\"",
        "DOLLAR": "$(id) $HOME",
        "EMPTY": "",
        "HASH": "#x",
        "EMOJI": "🚀",
        "EQUALS": "a=b=c",
        "BOTH": "task",
        "LD_BIND_NOW": "1",
    }
    names = [*values, "FROM_IMAGE"]
    script = 'printf "%s\\0" ' + " ".join(f'"${name}"' for name in names)
    return _sh(job, script, env=values).split("\0")[:-1]


def _files(job: Job) -> list[Any]:
    job.run(IMAGE, ["sh", "-c", "echo kept >/home/user/file; echo t >/tmp/file; mkdir sub"])
    second = job.run(OTHER, ["sh", "-c", "cat /home/user/file /tmp/file /opt/mark; cd sub"])
    owner = os.stat(os.path.join(job.home, "file")).st_uid
    return [second.text, second.code, owner == job_user()[0], owner != 0]


def _root(job: Job) -> list[Any]:
    first = job.run(
        IMAGE, ["sh", "-c", "echo new >/made && echo more >>/opt/mark && mkdir /opt/folder && rm /opt/bin/hello"]
    )
    again = job.run(IMAGE, ["sh", "-c", "cat /made /opt/mark; ls /opt/bin"])
    fresh = Job(job.runtime, job.cache, job.folder + "-fresh", job.writable)
    then = fresh.run(IMAGE, ["sh", "-c", "ls /made; cat /opt/mark; ls /opt/bin"])
    if job.writable:
        return [first.code == 0, again.text, then.text] == [
            True,
            "new\none\nmore\nlost\nplain\n",
            "one\nhello\nlost\nplain\n",
        ]
    return [first.code != 0, b"ead-only" in first.err, then.text] == [True, True, "one\nhello\nlost\nplain\n"]


def _binds(job: Job) -> list[Any]:
    outside = make_folder(os.path.join(job.folder, "outside"), job_user())
    make_folder(os.path.join(outside, "below"), job_user())
    binds = [(outside, "/mnt/new/place"), (os.path.join(outside, "below"), "/home/user/inner")]
    done = job.run(
        IMAGE, ["sh", "-c", "echo x >/mnt/new/place/f && echo y >/home/user/inner/g && cat /opt/mark"], binds=binds
    )
    return [
        done.code,
        done.text,
        os.path.exists(os.path.join(outside, "f")),
        os.path.exists(os.path.join(outside, "below", "g")),
    ]


def _streams(job: Job) -> list[str]:
    done = job.run(IMAGE, ["sh", "-c", "echo out; echo err >&2"])
    return [done.text, done.err.decode()]


def _singularity(image: str) -> Callable[[Job], list[Any]]:
    def see(job: Job) -> list[Any]:
        show = 'echo "$FROM_IMAGE $BOTH $OVER $HOME"; cat /opt/mark; hello'
        command = job.run(image, ["sh", "-c", show], env={"OVER": "task $(id)", "BOTH": "task"})
        return [
            command.text.splitlines(),
            job.run(image).text,
            job.run(image, ["no-such-command"]).code,
            job.run(image, ["sh", "-c", "exit 7"]).code,
        ]

    return see


def _app(job: Job) -> list[Any]:
    known, unknown = (job.run(SINGULARITY, ["a b", "c"], app=app) for app in ("tool", "other"))
    return [known.text, unknown.code, b"other" in unknown.err]


def _code(script: str) -> Callable[[Job], int]:
    return lambda job: job.run(IMAGE, ["sh", "-c", script]).code


def _command(*argv: str) -> Callable[[Job], int]:
    return lambda job: job.run(IMAGE, list(argv)).code


def _binary(job: Job) -> str:
    return hashlib.sha256(job.run(IMAGE, ["cat", "/data.bin"]).out).hexdigest()


def _identity(job: Job) -> list[Any]:
    uid, gid = job_user()
    said = _sh(job, "id -u; id -g; id -un; id -G", env={"USER": "user"}).split()
    return [said[0] == str(uid), said[1] == str(gid), said[2], said[3:] == [str(gid)]]


_INSIDE = """pwd; cat f /tmp/t /opt/mark; echo "$MORE,$N,$BOTH,$FROM_IMAGE,$HOME,$TMP"
id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status | tr -d '\\t'
kill -0 "$(cat pid)" && echo same processes"""


def _inside(job: Job) -> list[str]:
    """A command beside a running task: its folder, files, variables, user, rights and processes."""
    task = "cd; echo kept >f; echo t >/tmp/t; echo $$ >pid; cd /opt"
    [done] = job.inside(task, ["sh", "-c", _INSIDE], image=IMAGE, env={"N": "a b", "BOTH": "task"}, workdir="/opt")
    lines = done.text.splitlines()
    if lines[5:6] != [str(job_user()[0])]:
        return [str(done)]
    # What may be gained by a program is nothing either way; udocker and podman say so in different words.
    return [*lines[:5], *(line for line in lines[6:] if not line.startswith("CapBnd"))]


def _words_inside(job: Job) -> list[str]:
    [done] = job.inside(":", ["sh", "-c", _ARGS, "sh", *WORDS], image=IMAGE)
    return done.text.split("\0")[:-1]


def _codes_inside(job: Job) -> list[int]:
    argvs = [["sh", "-c", "exit 3"], ["no-such-command"], ["/no/such/command"], ["sh", "-c", "kill -9 $$"], ["hello"]]
    return [done.code for done in job.inside(":", *argvs, image=IMAGE)]


def _walls_inside(job: Job) -> list[Any]:
    tries = 'test -e "$1" || echo hidden; if (: >/mine) 2>/dev/null; then echo writable; else echo readonly; fi'
    [done] = job.inside(":", ["sh", "-c", tries, "sh", __file__], image=IMAGE)
    return done.text == ("hidden\nwritable\n" if job.writable else "hidden\nreadonly\n") or [done]


def _root_inside(job: Job) -> list[Any]:
    """What the task has changed of its root, where it may."""
    if not job.writable:
        return ["made\n"]
    [done] = job.inside("echo made >/made", ["cat", "/made"], image=IMAGE)
    return [done.text]


CHECKS = [
    Check("argv replaces entrypoint", lambda job: job.run(IMAGE, ["echo", "x"]).text, "x\n"),
    Check("entrypoint and cmd", lambda job: job.run(IMAGE).text, "entry a b c\n"),
    Check("cmd alone", lambda job: job.run(OTHER).text, "two\n"),
    Check("an archive as podman writes it", lambda job: job.run(PODMAN).text, "two\n"),
    Check("neither", lambda job: job.run(BARE).code, 127),
    Check("arguments arrive exactly", _arguments, WORDS),
    Check(
        "variables arrive exactly",
        _variables,
        ["  a b ", "x\ny\n", "'\"", "$(id) $HOME", "", "#x", "🚀", "a=b=c", "task", "1", "image value"],
    ),
    Check(
        "nothing of the host's environment",
        lambda job: _sh(job, "echo ${SUDO_USER-}${HOST_SECRET-}${PYTHONPATH-}"),
        "\n",
    ),
    Check(
        "default folders",
        lambda job: _sh(job, "pwd; echo $HOME $TMP $TEMP $TMPDIR"),
        "/home/user\n/home/user /tmp /tmp /tmp\n",
    ),
    Check("absolute workdir", lambda job: _sh(job, "pwd", workdir="/opt"), "/opt\n"),
    Check(
        "workdir below home is made",
        lambda job: _sh(job, "pwd; echo x >f", workdir="/home/user/a/b"),
        "/home/user/a/b\n",
    ),
    Check("path of the image", lambda job: job.run(IMAGE, ["hello"]).text, "hello from /opt/bin/hello\n"),
    Check("identity", _identity, [True, True, "user", True]),
    Check("no capabilities", lambda job: _sh(job, "grep CapEff /proc/self/status | tr -d '0\\t'"), "CapEff:\n"),
    Check(
        "no new privileges", lambda job: _sh(job, "grep NoNewPrivs /proc/self/status | tr -d '\\t'"), "NoNewPrivs:1\n"
    ),
    Check("exit 0", _code("exit 0"), 0),
    Check("exit 3", _code("exit 3"), 3),
    Check("exit 255", _code("exit 255"), 255),
    Check("killed", _code("kill -9 $$"), 137),
    Check("terminated", _code("kill -15 $$"), 143),
    Check("no such command", _command("no-such-command"), 127),
    Check("no such path", _command("/no/such/command"), 127),
    Check("not executable", _command("/opt/bin/plain"), 126),
    Check("a folder", _command("/opt"), 126),
    Check("no interpreter", _command("/opt/bin/lost"), 127),
    Check("empty stdin", lambda job: _sh(job, "cat; echo end"), "end\n"),
    Check("streams apart", _streams, ["out\n", "err\n"]),
    Check("binary output", _binary, hashlib.sha256(BYTES).hexdigest()),
    Check("files for the next task", _files, ["kept\nt\ntwo\n", 0, True, True]),
    Check("root as promised", _root, True),
    Check("more folders", _binds, [0, "one\n", True, True]),
    *(
        Check(
            name,
            _singularity(image),
            [
                ["image value task task $(id) /home/user", "one", "hello from /opt/bin/hello"],
                "runscript image value\n",
                127,
                7,
            ],
        )
        for name, image in (("a singularity image", SINGULARITY), ("one without 99-base.sh", WITHOUT_BASE))
    ),
    Check("an app of a singularity image", _app, ["/scif/apps/tool a b c\n", 127, True]),
    Check("devices", lambda job: _sh(job, "echo x >/dev/null; head -c 4 /dev/zero | wc -c"), "4\n"),
    Check(
        "inside a running task",
        _inside,
        [
            "/home/user",
            "kept",
            "t",
            "one",
            "of it,a b,task,image value,/home/user,/tmp",
            "CapEff:0000000000000000",
            "NoNewPrivs:1",
            "same processes",
        ],
    ),
    Check("arguments inside", _words_inside, WORDS),
    Check("exit codes inside", _codes_inside, [3, 127, 127, 137, 0]),
    Check("walls inside", _walls_inside, True),
    Check("the task's root inside", _root_inside, ["made\n"]),
    Check("image only", lambda job: _sh(job, 'test -e "$1" || echo hidden', __file__), "hidden\n"),
]


def observe(runtime: str, engine_dir: str, images: str, folder: str, writable: bool) -> dict[str, Any]:
    """Every check's answer."""
    make_folder(folder)
    cache = ImageCache(os.path.join(folder, "cache"), images)
    found = {}
    for number, check in enumerate(CHECKS):
        job = Job(load(runtime, engine_dir), cache, os.path.join(folder, "jobs", str(number)), writable)
        found[check.name] = check.see(job)
    cache.close()
    return found


if __name__ == "__main__":
    print(json.dumps(observe(*sys.argv[1:5], writable=sys.argv[5] == "writable"), default=str))
