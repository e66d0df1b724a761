"""How a command is called and fails: here, flags that have new names."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT

_COMMAND = """
from absl import flags
from accordion_jax.system import command
BUDGET = flags.DEFINE_float("budget_s", 0.0, "Seconds.")
command.renamed({"budget_minutes": "--budget_s (in seconds)"})
command.run(lambda argv: print(BUDGET.value, argv[1:]))
"""


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("argument", ["--budget_minutes=25", "--budget_minutes="])
def test_a_flag_of_an_old_name_says_the_new_one(argument):
    finished = call(argument)
    assert finished.returncode == 1
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert "--budget_minutes is now --budget_s (in seconds)" in line


def test_the_new_name_works():
    finished = call("--budget_s=25", "more")
    assert (finished.returncode, finished.stdout) == (0, "25.0 ['more']\n")


def test_help_lists_no_old_names():
    finished = call("--help")
    assert finished.returncode == 0
    assert "--budget_s" in finished.stdout
    assert "budget_minutes" not in finished.stdout


def test_a_terminal_of_another_encoding_shows_what_it_can():
    program = "from accordion_jax.system import command; command.run(lambda _: print('a → b'))"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a ? b\n", b"")
