"""A side is a process of its own, with an environment of its own."""

import concurrent.futures
import os

import pytest

from benchmarks.sides import Side

NAME = "ACCORDION_TEST_SIDE"


class Counter:
    """Counts, and says where it lives."""

    def __init__(self, start):
        self.value = int(start)

    def add(self, more):
        self.value += more
        return self.value

    def where(self):
        return os.getpid(), os.environ.get(NAME)

    def end(self):
        os._exit(3)


def test_calls_are_made_in_a_process_with_its_own_environment():
    with Side(Counter, 40, environment={NAME: "there"}) as side:
        assert [side.add(1), side.add(1)] == [41, 42]
        process, variable = side.where()
    assert process != os.getpid()
    assert (variable, os.environ.get(NAME)) == ("there", None)


def test_what_fails_there_fails_here():
    with pytest.raises(ValueError, match="invalid literal"):
        Side(Counter, "many")
    with Side(Counter, 0) as side:
        with pytest.raises(AttributeError, match="no_such_method"):
            side.no_such_method()
        with pytest.raises(concurrent.futures.BrokenExecutor):
            side.end()
