"""How the benchmarks print: what the figures are of, then Markdown tables; on request JSON too."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Mapping
from typing import Any

from accordion_jax.system.files import write_json
from benchmarks.timing import Sample

_VERSIONS = (
    *("jax", "jaxlib", "flax", "torch", "libtpu", "jax-cuda12-plugin", "nvidia-cudnn-cu12"),
    *("httpx", "starlette", "uvicorn", "h11"),
)


def machine() -> str:
    """Returns hardware, load, and the versions of what is installed and matters, in a line."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"model name\s*: (.*)", text):
            processor = found.group(1)
    facts = [processor, f"{os.cpu_count()} cores", f"load before {os.getloadavg()[0]:.1f}"]
    facts.append(f"Python {platform.python_version()}")
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(facts)


class Report:
    """What a command found, printed as it becomes known; a context that ends with a JSON file."""

    def __init__(self, title: str, json_path: str = ""):
        """Prints the title (what is measured, and of what size), and what the figures are of.

        Args:
          title: in a line.
          json_path: of the file to write, raw values and all; "" for none.
        """
        self._json_path = json_path
        facts: dict[str, Any] = {"title": title, "machine": machine(), "tables": [], "notes": []}
        self._document = facts
        print(f"{title}\n{facts['machine']}", flush=True)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self._json_path and failed is None:
            write_json(self._json_path, self._document)

    def table(self, columns: Mapping[str, str]) -> None:
        """Begins a table.

        Args:
          columns: heading -> format of its numbers, such as ".2f"; "" for text.
        """
        self._formats = tuple(columns.values())
        self._document["tables"].append({"columns": list(columns), "rows": []})
        print(f"\n| {' | '.join(columns)} |")
        print(f"|{'|'.join(' ---: ' if spec else ' --- ' for spec in self._formats)}|", flush=True)

    def row(self, *values: str | float | Sample | None) -> None:
        """Prints a row of the table; None is a value that there is not."""
        raw = [list(each.values) if isinstance(each, Sample) else each for each in values]
        self._document["tables"][-1]["rows"].append(raw)
        cells = (
            "-" if value is None else value if isinstance(value, str) else format(value, spec)
            for value, spec in zip(values, self._formats, strict=True)
        )
        print(f"| {' | '.join(cells)} |", flush=True)

    def note(self, text: str) -> None:
        """Prints a line of text."""
        self._document["notes"].append(text)
        print(f"\n{text}", flush=True)
