"""What the figures of a benchmark are of: hardware and versions."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re


def processor() -> str:
    """Returns the processor's name, where the system gives it."""
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"model name\s*: (.*)", text):
            return found.group(1)
    return platform.processor() or platform.machine()


def machine(*packages: str) -> str:
    """Returns hardware, load and versions, in a line.

    Args:
      *packages: distributions whose versions matter to the figures; those not installed are left
        out.
    """
    facts = [processor(), f"{os.cpu_count()} cores", f"load before {os.getloadavg()[0]:.1f}"]
    facts.append(f"Python {platform.python_version()}")
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(facts)
