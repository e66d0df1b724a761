"""A search that was interrupted goes on: nothing is measured twice, and the order is the same."""

import subprocess
import sys

import pytest

from accordion_jax.delivery.bundle.encoding import Measured
from accordion_jax.delivery.bundle.passes_kept import digest_of, kept
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.searching import find_order, passes_of_search
from tests.commands import ROOT
from tests.delivery.resnets import make_resnet

BELONGS_TO = {"network": "abc", "examples": 100}


class StopError(Exception):
    """In the place of a power cut."""


@pytest.fixture(scope="module")
def network():
    """(chains, ladder, names of blocks)."""
    model, variables, ladder, _ = make_resnet("coml", (1, 2, 1))
    chains = Chains(
        variables, base_names=("stem", "head"), block_names=model.block_names, bits=(4, 8)
    )
    return chains, ladder, model.block_names


def answer(steps, masks):
    """What depends on the question alone, in numbers that JSON could round."""
    deep = sum(steps.values())
    return [Measured(10_000, 9_000 - 91 * sum(m) - 13 * deep, 3.1 / (deep + 1.7)) for m in masks]


def search(network, path, seen, stop_after=None, belongs_to=None):
    def ask(steps, masks):
        if len(seen) == stop_after:
            raise StopError
        seen.append((tuple(sorted(steps.items())), tuple(masks)))
        return answer(steps, masks)

    done = []
    with kept(path, belongs_to or BELONGS_TO, ask) as remembered:
        order = find_order(*network, remembered, lambda: done.append(1))
    return order, len(done)


@pytest.mark.parametrize("stop_after", [1, 3, 8])
def test_a_search_that_is_stopped_goes_on_and_measures_nothing_twice(network, tmp_path, stop_after):
    whole, total = search(network, tmp_path / "whole", [])
    assert total == passes_of_search(network[0])
    seen = []
    with pytest.raises(StopError):
        search(network, tmp_path / "kept", seen, stop_after)
    assert len(seen) == stop_after
    order, passes = search(network, tmp_path / "kept", seen)
    assert order == whole
    assert passes == total  # the bar ends at its end
    assert len(seen) == len(set(seen)) == total
    again = []
    assert search(network, tmp_path / "kept", again) == (whole, total)
    assert not again


def test_a_half_written_last_line_counts_as_none(network, tmp_path):
    path = tmp_path / "kept"
    whole, total = search(network, path, [])
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == total + 1
    for end in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:end])
        seen = []
        assert search(network, path, seen)[0] == whole
        assert len(seen) == 1
        assert path.read_bytes() == b"".join(lines)
    path.write_bytes(lines[0][:-1])
    seen = []
    assert search(network, path, seen)[0] == whole
    assert len(seen) == total


@pytest.mark.parametrize("damage", [b"{}\n", b"[1]\n", b"\xff\xfe\n", b'{"of": "a"}\n'])
def test_from_a_damaged_line_on_it_is_measured_again(network, tmp_path, damage):
    path = tmp_path / "kept"
    whole, total = search(network, path, [])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], damage, *lines[4:]]))
    seen = []
    assert search(network, path, seen)[0] == whole
    assert len(seen) == total - 2
    assert path.read_bytes() == b"".join(lines)


def test_what_belongs_to_something_else_is_begun_anew(network, tmp_path):
    _, total = search(network, tmp_path / "kept", [])
    seen = []
    search(network, tmp_path / "kept", seen, belongs_to=BELONGS_TO | {"examples": 99})
    assert len(seen) == total


def test_other_weights_and_other_bits_have_another_digest(network):
    chains, *_ = network
    digests = {digest_of(chains)}
    for seed, bits in ((0, (2, 8)), (1, (4, 8))):
        model, variables, *_ = make_resnet("coml", (1, 2, 1))
        variables["params"]["stem"]["conv"]["kernel"] = variables["params"]["stem"]["conv"][
            "kernel"
        ] * (1 + seed)
        other = Chains(
            variables, base_names=("stem", "head"), block_names=model.block_names, bits=bits
        )
        digests.add(digest_of(other))
    assert len(digests) == 3


KILLED = """
import os, sys
from accordion_jax.delivery.bundle.passes_kept import kept
from accordion_jax.delivery.bundle.encoding import Measured

def ask(steps, masks):
    if steps["base"] == 4:
        os.kill(os.getpid(), 9)
    deep = sum(steps.values())
    return [Measured(10_000, 9_000 - 91 * sum(m) - 13 * deep, 3.1 / (deep + 1.7)) for m in masks]

with kept(sys.argv[1], {"network": "abc", "examples": 100}, ask) as remembered:
    for step in range(10):
        remembered({"base": step}, [(False,)])
"""


def test_a_process_that_is_killed_has_kept_what_it_measured(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "kept")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    seen = []

    def ask(steps, masks):
        seen.append(steps["base"])
        return answer(steps, masks)

    with kept(tmp_path / "kept", BELONGS_TO, ask) as remembered:
        for step in range(10):
            assert remembered({"base": step}, [(False,)]) == answer({"base": step}, [(False,)])
    assert seen == list(range(4, 10))
