"""What the benchmarks share: interleaved timing, quantiles, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# glibc gives large blocks back to the system and takes fresh pages on every call, which costs more than the work
# itself; these keep them. They are read when a process starts.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # the arenas of other threads cannot grow past 64 MB
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_MMAP_MAX_": "0",  # a larger mmap threshold is capped at 32 MB
    "MALLOC_TOP_PAD_": str(1 << 30),
}


def keep_memory() -> None:
    """Start this program again with an allocator that keeps its memory, unless it already has."""
    if any(name not in os.environ for name in _KEEP_MEMORY):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_KEEP_MEMORY})


def interleave(contenders: Mapping[str, Callable[[], Any]], rounds: int, number: int = 1) -> dict[str, list[float]]:
    """Seconds per call of each contender, one sample per round, all contenders in turn within a round."""
    for run in contenders.values():  # compile, warm up
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            for _ in range(number):
                run()
            seconds[name].append((time.perf_counter() - start) / number)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> dict[str, float]:
    """Median, least and largest of the ratios round by round: slow drifts of the machine cancel."""
    ratios = sorted(a / b for a, b in zip(seconds, base, strict=True))
    return {"ratio": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows and the setting as JSON")
    return parser


def kept_in(folder: Path | None) -> Path | None:
    """Return the file for the runs of a sweep in a folder, which is created."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "runs.jsonl"


def report(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Print the rows as a table, and write them with the setting they were measured in."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(key, "")) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if path:
        path.write_text(json.dumps({"setting": setting(), "rows": rows}, indent=1) + "\n")


def setting() -> dict[str, Any]:
    import jax  # noqa: PLC0415 (the import benchmark must not have imported it)

    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def chosen(names: Iterable[str], wanted: str | None) -> list[str]:
    return [name for name in names if not wanted or name in wanted.split(",")]
