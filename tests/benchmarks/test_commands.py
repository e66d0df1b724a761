"""Every benchmark can be loaded beside the others, and says how it is run and how long it takes."""

import importlib
import pathlib

import pytest

import benchmarks

ROOT = pathlib.Path(benchmarks.__file__).parent
COMMANDS = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if "\ndef main(" in path.read_text(encoding="utf-8")
]


def test_there_are_commands_of_each_subject():
    assert {name.split(".")[1] for name in COMMANDS} == {
        *("training", "compilers", "delivery", "compositions"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_run_and_how_long_it_takes(name):
    # All in this process: two that defined one flag would not load.
    text = importlib.import_module(name).__doc__
    assert f"\n    python -m {name}" in text
    assert "\nTime on two CPU cores: " in text


def test_a_wrong_command_line_is_a_line_of_error(run_command):
    finished = run_command("benchmarks.compilers.chips", "extra")
    assert finished.returncode == 1
    assert finished.stderr == "error: unexpected argument 'extra'; options are --NAME=VALUE\n"
    assert finished.stdout == ""
