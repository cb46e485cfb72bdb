"""OneData's spaces: mounted by its own oneclient."""

from __future__ import annotations

import os
import shlex

from ..runtimes.files import CLEAN
from . import fuse
from .model import Place, Tool, Unmountable, Volume
from .server import check_host

_GET = "oneclient is not installed on this node (see onedata.org)"
_PORT = 443


class Oneclient(Tool):
    name = "oneclient"

    def check(self, volume: Volume, place: Place, timeout_s: float) -> None:  # noqa: ARG002 - it has timeouts of its own
        """oneclient itself asks the server before it mounts; here is what it would not look at."""
        _binary()
        check_host(volume.account["provider"], _PORT, place.allowed)

    def command(self, volume: Volume, place: Place) -> tuple[list[str], dict[str, str]]:
        # A provider tells its clients where on their machine the data is; ours runs as root and must not be led there.
        argv = [_binary(), "--foreground", "--force-proxy-io", "--log-dir", os.path.join(place.folder, "logs")]
        argv += ["--host", volume.account["provider"]]
        argv += ["--opt", "allow_other"] if place.everybody else []
        argv += [*shlex.split(volume.account.get("options", "")), place.point]
        environment = dict(CLEAN, HOME=place.folder, ONECLIENT_ACCESS_TOKEN=volume.account["token"])
        return argv, environment


def _binary() -> str:
    found = fuse.find("oneclient")
    if found is None:
        raise Unmountable(_GET, final=True)
    return found
