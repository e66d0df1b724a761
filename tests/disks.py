"""Small disks, to be filled."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Makes a folder a disk of so many bytes; yields what gives it another size.

    Skips the test where that is not permitted.
    """
    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs")

    def mount(*arguments: str) -> None:
        command = ["mount", *arguments, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")

    mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs")
    try:
        yield lambda size_bytes: mount("-o", f"remount,size={size_bytes}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
