"""What stage in and stage out of one job work with."""

from __future__ import annotations

from dataclasses import dataclass

from .. import spool
from ..assignment import Assignment
from ..node import Node
from ..paths import LeasePaths
from ..supervise import Supervisor
from ..users import User


@dataclass(frozen=True)
class Staging:
    paths: LeasePaths
    assignment: Assignment
    user: User
    node: Node
    supervisor: Supervisor
    reports: spool.Writer
