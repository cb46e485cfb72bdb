"""Meters: CPU and memory of the stack's parts, percentiles, and a user that polls no faster than it must."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.integration.stacks import Stack

#: Airflow and the API, whose cost a job is held to; the rest stands beside them.
CONTROLLERS = ("api-server", "scheduler", "dag-processor", "triggerer")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    wanted: str


def cpu_s(stack: Stack, parts: Iterable[str]) -> float:
    """CPU seconds that the parts' processes, and the children they have reaped, have used so far."""
    return sum(_cpu_of(pid) for part in parts for pid in set(stack.pids(part)))


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / _TICKS


def memory_mb(stack: Stack, part: str) -> float:
    """Proportional set size of a part's processes, in MB."""
    return sum(_pss_kb(pid) for pid in set(stack.pids(part))) / 1024


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: list[float], unit: str = "ms", scale: float = 1000) -> str:
    """Minimum, median and 95th percentile as text."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return (
        f"min {ordered[0] * scale:.0f}, p50 {statistics.median(ordered) * scale:.0f}, "
        f"p95 {p95 * scale:.0f} {unit} (n={len(ordered)})"
    )


def print_table(rows: list[Row]) -> None:
    """Print the rows as a Markdown table."""
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("what", "measured", "wanted")]
    head = Row("what", "measured", "wanted")
    for row in [head, None, *rows]:
        cells = ["-" * width for width in widths] if row is None else [row.what, row.measured, row.wanted]
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |")
