"""Every message that names a remedy has a test that follows it.

A test says so with ``@pytest.mark.tries("part of the message", ...)``: it brings about that
message, does what it says, and sees that it helps. A new message that tells what to do fails here
until a test tries it.
"""

import ast
import functools
import re

import pytest

from tests.commands import ROOT

_VERBS = (
    "add|ask|call|change|choose|close|convert|copy|cut|delete|drop|fetch|free|give|install|leave|"
    "load|lower|make|mend|move|name|plan|put|raise|run|send|set|shorten|split|start|stop|sweep|"
    "take|train|try|upgrade|use|wait|write"
)
# Where a clause begins with such a verb, somebody is told to do something.
_ADVICE = re.compile(
    rf"(?:^|[;:.,(]\s+|\b(?:or|and|then) |\bto )(?:{_VERBS})\b"
    "|python -m|pip install|same command|nearest",
    re.IGNORECASE,
)
# These only look like it.
_NONE = (
    "must start with http:// or https:// and name a host",
    "must be an object, name to value",
    "it was told to stop, and has saved",
    "stop it",  # goes into the message of a run that is busy
)


def messages():
    """(file and line, text) of what this package says to people, beside flags and OpenAPI."""
    for path in sorted((ROOT / "accordion_jax").rglob("*.py")):
        if path.name != "openapi.py":
            for line, text in _texts(ast.parse(path.read_text())):
                yield f"{path.relative_to(ROOT)}:{line}", text


def _texts(node):
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
        yield node.lineno, "".join(parts)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield from _texts(value.value)
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
        return
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name.startswith("DEFINE") or name == "renamed":
            return
    body = getattr(node, "body", None)
    for child in ast.iter_child_nodes(node):
        is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not (is_text and isinstance(body, list) and child is body[0]):
            yield from _texts(child)


@functools.cache
def tried():
    """Part of a message -> the test that says it tries it."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and getattr(mark.func, "attr", "") == "tries":
                    for part in mark.args:
                        found[ast.literal_eval(part)] = f"{path.relative_to(ROOT)}::{node.name}"
    return found


ADVICE = [
    (where, text)
    for where, text in messages()
    if " " in text and _ADVICE.search(text) and not any(each in text for each in _NONE)
]


@pytest.mark.parametrize(("where", "text"), ADVICE, ids=[where for where, _ in ADVICE])
def test_what_it_says_to_do_is_tried(where, text):
    assert any(part in text for part in tried()), (
        f"{where} tells people what to do: {text!r}. Follow it in a test, and mark that test with "
        "@pytest.mark.tries('a part of the message')"
    )


def test_no_test_tries_what_nobody_says():
    texts = [text for _, text in messages()]
    stale = {p: t for p, t in tried().items() if not any(p in text for text in texts)}
    assert not stale


def test_the_reader_finds_advice_and_leaves_out_what_is_none():
    module = '''
"""Use this module."""
def f(name):
    """Set it first."""
    flags.DEFINE_string("a", "", "Use it so.")
    raise ValueError(f"{name} is wrong; use {min(name)}, or " "another")
'''
    assert list(_texts(ast.parse(module))) == [(6, "{} is wrong; use {}, or another")]
    assert _ADVICE.search("{} is wrong; use {}, or another")
    assert not _ADVICE.search("the user of it is wrong")


def test_it_is_all_there():
    assert len(ADVICE) > 90
