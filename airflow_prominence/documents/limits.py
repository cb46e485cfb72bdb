"""Upper bounds that an installation may set; what the contract itself bounds stands in the schemas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    max_cpus: int = 1024
    """CPU cores per node."""
    max_nodes: int = 1000
    max_memory_gb: int = 1_000_000
    """Per node."""
    max_disk_gb: int = 1_000_000
    """Per node."""
    max_walltime_minutes: int = 44640
    max_input_bytes: int = 1_000_000
    """One input file, decoded."""
    max_jobs: int = 10_000
    """Of one workflow, after its factories have made theirs."""


DEFAULT_LIMITS = Limits()
