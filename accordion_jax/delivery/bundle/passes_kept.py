"""What passes over examples have measured, in a file, so that a search goes on where it stopped.

JSON lines: the first says what they belong to, each other one is a pass. A line is flushed to the
disk before the next pass begins, and a last one that is cut counts as not written.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accordion_jax.delivery.bundle.encoding import Measured
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.depth import SkipMask
from accordion_jax.system.room import room_for

# What is asked of examples: (step of each segment, skip masks) -> what was counted of each mask.
Ask = Callable[[Mapping[str, int], Sequence[SkipMask]], Sequence[Measured]]


def digest_of(chains: Chains) -> str:
    """Returns what tells a network in its bits from any other, hexadecimal."""
    digest = hashlib.sha256(repr(chains.bits).encode())
    for name, contents in chains.contents.items():
        digest.update(name.encode())
        for content in contents:
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def kept(path: str | os.PathLike, belongs_to: Mapping[str, Any], ask: Ask) -> Iterator[Ask]:
    """Yields `ask` with a memory: what the file has is not asked for again.

    Args:
      path: of the file; its folder is made. One that belongs to something else is begun anew.
      belongs_to: all that the answers depend on, of JSON: the network, the examples.
      ask: makes a pass.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"belongs_to": belongs_to}, sort_keys=True)
    known, whole = _read(path, head)
    with path.open("r+b" if whole else "wb") as file:
        # What is behind the last whole line goes.
        file.truncate(whole)
        file.seek(whole)

        def write(line: str) -> None:
            with room_for(path):
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())

        if not whole:
            write(head)

        def remembered(steps: Mapping[str, int], masks: Sequence[SkipMask]) -> Sequence[Measured]:
            key = _key(steps, masks)
            if key not in known:
                found = list(ask(steps, masks))
                write(json.dumps({"of": key, "found": found}))
                known[key] = found
            return known[key]

        yield remembered


def _read(path: pathlib.Path, head: str) -> tuple[dict[str, list[Measured]], int]:
    """Returns what a file has, and the bytes of its whole lines; 0 where it is not of this head."""
    if not path.is_file():
        return {}, 0
    known: dict[str, list[Measured]] = {}
    whole = 0
    for i, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        if i == 0 and line != f"{head}\n".encode():
            return {}, 0
        if not line.endswith(b"\n"):
            break
        if i:
            try:
                each = json.loads(line)
                known[each["of"]] = [Measured(*found) for found in each["found"]]
            except (ValueError, KeyError, TypeError):
                break  # damaged: what follows is measured again
        whole += len(line)
    return known, whole


def _key(steps: Mapping[str, int], masks: Sequence[SkipMask]) -> str:
    """A text that is the same for equal questions."""
    asked = {name: step for name, step in sorted(steps.items()) if step}
    text = json.dumps([asked, [[bool(skip) for skip in mask] for mask in masks]])
    return hashlib.sha256(text.encode()).hexdigest()
