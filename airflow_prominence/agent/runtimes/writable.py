"""A job's own writable root: fresh for each job, shared by the tasks of the job that use the same image."""

import os
import shutil
from typing import Optional

from ..images.cache import owned_copy
from ..images.tree import change_owner, copy_tree, remove_tree, resolve_in_root
from .base import ContainerError, ContainerSpec
from .files import make_folder, settle
from .rootfs import identity

_IDENTITY = ("/etc/passwd", "/etc/group")


def folder(spec: ContainerSpec) -> str:
    """Where the job keeps its roots of this image."""
    return os.path.join(spec.scratch, "roots", (spec.image.sha256 or "image")[:24])


def copied(spec: ContainerSpec) -> Optional[str]:
    path = os.path.join(folder(spec), "copy")
    return path if os.path.isdir(path) else None


def layered(spec: ContainerSpec) -> Optional[str]:
    """The folder with `upper` and `work` for an overlay over `lower(spec)`."""
    path = folder(spec)
    return path if os.path.isdir(os.path.join(path, "upper")) else None


def lower(spec: ContainerSpec) -> str:
    """The image with files that belong to the job's user, who could not change others' in an overlay."""
    return owned_copy(spec.image, spec.uid, spec.gid)


def make_layers(spec: ContainerSpec) -> str:
    """Make `upper` and `work` unless an earlier task of the job did."""
    have = layered(spec)
    if have is not None:
        return have
    owner = (spec.uid, spec.gid)
    path = folder(spec)
    below = lower(spec)
    try:
        make_folder(path)
        make_folder(os.path.join(path, "work"), owner)
        partial = make_folder(os.path.join(path, "upper.tmp"))
        for name, data in zip(_IDENTITY, identity(spec, below)):
            inside = os.path.relpath(resolve_in_root(below, name), below)
            parts = inside.split(os.sep)
            for depth in range(1, len(parts)):
                step = os.path.join(partial, *parts[:depth])
                if not os.path.isdir(step):
                    os.mkdir(step)
                    shutil.copystat(os.path.join(below, *parts[:depth]), step)
            _write(os.path.join(partial, inside), data)
        if os.geteuid() == 0:
            change_owner(partial, owner)
        os.rename(partial, os.path.join(path, "upper"))
    except OSError as error:
        raise ContainerError(f"a writable root cannot be made on the node ({error})") from error
    return path


def make_copy(spec: ContainerSpec) -> str:
    """Copy the whole image unless an earlier task of the job did."""
    have = copied(spec)
    if have is not None:
        return have
    path = os.path.join(folder(spec), "copy")
    partial = path + ".tmp"
    try:
        make_folder(folder(spec))
        remove_tree(partial)
        copy_tree(spec.image.path, partial, (spec.uid, spec.gid))
        for name, data in zip(_IDENTITY, identity(spec, partial)):
            target = resolve_in_root(partial, name)
            os.unlink(target)
            _write(target, data)
            if os.geteuid() == 0:
                os.lchown(target, spec.uid, spec.gid)
        settle(partial, path)
    except OSError as error:
        raise ContainerError(f"a writable root cannot be made on the node ({error})") from error
    return path


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o644)
