"""Where a node may take images from, as its admin and its site have it."""

import ssl
from dataclasses import dataclass, replace
from typing import Optional, Tuple

from ..addresses import EVERYWHERE, PUBLIC_ONLY, Allowed
from .download import Download, Log
from .model import PullError


@dataclass(frozen=True)
class Sources:
    """`insecure` are hosts (with their port) that may be asked over plain HTTP, `ca_file` names more CAs to trust."""

    insecure: Tuple[str, ...] = ()
    ca_file: Optional[str] = None
    allowed: Allowed = PUBLIC_ONLY

    def download(self, log: Log, *, ours: bool = False) -> Download:
        """Downloads from these sources; from wherever it is if the deployment itself has named the place (`ours`)."""
        allowed = EVERYWHERE if ours else replace(self.allowed, hosts=frozenset(self.insecure))
        return Download(log, allowed, self._context())

    def _context(self) -> Optional[ssl.SSLContext]:
        if self.ca_file is None:
            return None
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise PullError(f"image: the node's file of certificates {self.ca_file} can't be used ({error})") from error
        return context


PUBLIC = Sources()
"""Public addresses over TLS."""
