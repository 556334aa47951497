"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

LIBRARIES: Final = ("udpguard", "uvloop", "anyio", "asyncio-dgram", "asyncudp", "matplotlib")

# Of all CPUs' time; what a machine at rest does is less.
_QUIET: Final = 0.05
_GLANCE: Final = 0.25


def describe() -> dict[str, Any]:
    """The machine, the system, who runs it, and the libraries' versions (None: not installed)."""
    return {
        "cpu": _from_file("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rmem_max": _number("/proc/sys/net/core/rmem_max"),
        "busy": busy(),
        "user": "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "ordinary user",
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def headline(machine: dict[str, Any]) -> str:
    """The machine in two lines."""
    others = machine["busy"]
    warning = f"\nother programs use {others:.0%} of the CPUs: the figures will show it" if others > _QUIET else ""
    here = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items() if version)
    return (
        f"{machine['cpu']}, {machine['usable_cores']} of {machine['cores']} CPUs; {machine['system']}; "
        f"rmem_max {machine['rmem_max']}; {machine['user']}\n{machine['python']}; {here}{warning}"
    )


def busy() -> float:
    """The share of the CPUs' time that others use just now; 0 where that can't be told."""
    before = _ticks()
    time.sleep(_GLANCE)
    idle, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    return round(1 - idle / total, 3) if total else 0.0


def _ticks() -> tuple[int, int]:
    """Idle ticks and all ticks of all CPUs since boot (`man 5 proc_stat`)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    ticks = [int(word) for word in stat.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def is_fit() -> bool:
    """Whether all of 127.0.0.0/8 is this machine's, so that one server plays thousands of peers: so on Linux."""
    return sys.platform == "linux"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _from_file(path: str, key: str) -> str:
    if not Path(path).exists():
        return ""
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _number(path: str) -> int | None:
    return int(Path(path).read_text(encoding="ascii")) if Path(path).exists() else None
