"""Writing an image archive with nothing but the standard library: no registry, no root, the same bytes every time."""

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from typing import Dict, Optional, Sequence

from .platforms import architecture


@dataclass(frozen=True)
class Entry:
    """One thing in a layer: a folder (no data, no link), a file, or a symbolic link."""

    path: str
    mode: int = 0o755
    data: Optional[bytes] = None
    link: Optional[str] = None


@dataclass(frozen=True)
class ImageConfig:
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Dict[str, str] = field(default_factory=dict)
    workdir: str = ""


def layer(entries: Sequence[Entry]) -> bytes:
    """An uncompressed layer; parents of every entry are added."""
    known: Dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.strip("/").split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            known.setdefault(parent, Entry(parent))
        known["/".join(parts)] = entry
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(known):
            entry = known[path]
            info = tarfile.TarInfo(path)
            info.mode = entry.mode
            if entry.link is not None:
                info.type = tarfile.SYMTYPE
                info.linkname = entry.link
                tar.addfile(info)
            elif entry.data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(entry.data)
                tar.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def image_config(config: ImageConfig, layers: Sequence[bytes]) -> bytes:
    document = {
        "architecture": architecture(),
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {
            "Entrypoint": list(config.entrypoint) or None,
            "Cmd": list(config.cmd) or None,
            "Env": [f"{key}={value}" for key, value in config.env.items()],
            "WorkingDir": config.workdir,
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]},
        "history": [{"created": "2020-01-01T00:00:00Z"} for _ in layers],
    }
    return json.dumps(document, sort_keys=True).encode()


def write_archive(path: str, tags: Sequence[str], config: ImageConfig, layers: Sequence[bytes]) -> str:
    """Write what `docker save` writes, atomically; returns the configuration's sha256, the image's id."""
    document = image_config(config, layers)
    image_id = hashlib.sha256(document).hexdigest()
    names = [f"{hashlib.sha256(data).hexdigest()}/layer.tar" for data in layers]
    manifest = [{"Config": image_id + ".json", "RepoTags": list(tags), "Layers": names}]
    members = dict(zip(names, layers))
    members[image_id + ".json"] = document
    members["manifest.json"] = json.dumps(manifest).encode()
    partial = f"{path}.{os.getpid()}.tmp"
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    os.replace(partial, path)
    return image_id
