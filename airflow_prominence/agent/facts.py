"""What this machine is: its processor, and how much of it there is to give to jobs."""

from __future__ import annotations

import os
import shutil
from typing import Any


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def memory_mb() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
    for path in ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"):
        try:
            with open(path) as handle:
                text = handle.read().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text) // (1024 * 1024))
    # the rest is for the system and for what runs beside the jobs
    return max(256, total - max(256, total // 20))


def disk_mb(state: str) -> int:
    return int(shutil.disk_usage(state).free // (1024 * 1024) * 9 // 10)


def processor() -> dict[str, Any]:
    """Vendor, model and clock in MHz, where the kernel tells."""
    names = {"vendor_id": "vendor", "model name": "model", "cpu MHz": "clock"}
    found: dict[str, Any] = {}
    with open("/proc/cpuinfo") as handle:
        for line in handle:
            key, _, value = line.partition(":")
            name = names.get(key.strip())
            if name is not None:
                found[name] = float(value) if name == "clock" else value.strip()
            if not line.strip():
                break
    return found
