"""README and docs/: what they link to is there, and the commands they name take their flags."""

import ast
import functools
import re
from configparser import ConfigParser

import pytest

from accordion_jax.runs.config import default_config, to_jsonable
from tests.commands import ROOT
from tests.test_architecture import ARROWS

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "BUILD_NOTES.md", *(ROOT / "docs").glob("*.md"))
)
# Where a path that a page names may begin.
ROOTS = ("", "docs", "accordion_jax", "accordion_jax/delivery")
# Named as what a reader would write, and as what commands leave.
NOT_THERE = {"accordion_jax/models/perceptron.py"}
LEFT = re.compile(r"(runs|results|bundles|cache|DIR|OUT|FOLDER|traces)/")

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"-m ((?:accordion_jax|benchmarks)(?:\.\w+)+)([^`\n]*)")
_FLAG = re.compile(r"(?<![\w-])--(?!config\.)([A-Za-z_]\w*)")
_FIELD = re.compile(r"\bconfig\.((?:[a-z_]+\.)*[a-z_]+)\b(?!\()")
_ENDINGS = "py|sh|md|json|conf|ipynb|sbatch|png|html"
_PATH = re.compile(rf"(?<![\w./-])[\w.-]+(?:/[\w.-]+)+\.(?:{_ENDINGS})\b")
_OPEN = ("model.arguments.", "optimizer.arguments.")


@functools.cache
def text_of(page):
    """A page, with the lines of a command that goes on joined."""
    return re.sub(r"\\\n\s*", " ", (ROOT / page).read_text(encoding="utf-8"))


@functools.cache
def headings_of(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def file_of(module):
    """The file of a module of this repository; None where there is none."""
    path = ROOT / (module.replace(".", "/") + ".py")
    return path if path.is_file() else None


@functools.cache
def flags_of(module):
    """Names of the flags of a command, those that several benchmarks share among them."""
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    names = {"help"}
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr.startswith("DEFINE"):
            # Some are given the parser of their values first.
            names.add(next(each.value for each in node.args if isinstance(each, ast.Constant)))
        if isinstance(node, ast.ImportFrom) and node.module == "benchmarks.options":
            names |= flags_of("benchmarks.options")
    return names


def commands_of(page):
    """(module, rest of its command line up to a lone ``--``) for each that a page names."""
    for module, rest in _COMMAND.findall(text_of(page)):
        rest = re.split(r" (?:&&|\||#) ", rest)[0]
        yield module, re.split(r" -- ", rest)[0]


def test_the_pages_are_found():
    assert {"README.md", "docs/manual.md", "docs/extending.md"} <= set(PAGES)
    assert {module for module, _ in commands_of("README.md")} >= {
        f"accordion_jax.{name}" for name in ("main", "bundle", "serve", "fetch")
    }


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", text_of(page), flags=re.DOTALL)
    for link in _LINK.findall(prose):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            there = target.resolve().relative_to(ROOT).as_posix()
            assert anchor in headings_of(there), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_is_there(page):
    for path in _PATH.findall(re.sub(r"\w+://\S+", "", text_of(page))):
        if path in NOT_THERE or LEFT.match(path):
            continue
        begins = [(ROOT / page).parent, *(ROOT / root for root in ROOTS)]
        assert any((begin / path).exists() for begin in begins), f"{page}: {path}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_there_and_takes_its_flags(page):
    for module, rest in commands_of(page):
        assert file_of(module), f"{page}: {module}"
        for flag in _FLAG.findall(rest):
            known = flags_of(module)
            assert flag in known or flag.removeprefix("no") in known, f"{page}: {module} --{flag}"


@pytest.mark.parametrize("page", PAGES)
def test_every_field_of_a_config_is_one(page):
    def names(tree, prefix=""):
        for name, value in tree.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from names(value, f"{prefix}{name}.")

    known = set(names(to_jsonable(default_config())))
    for field in _FIELD.findall(text_of(page)):
        if field not in ("py", "json") and not field.startswith(_OPEN):
            assert field in known, f"{page}: config.{field}"


def test_the_short_names_of_commands_are_those_that_are_installed():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options.entry_points"]["console_scripts"].split("\n")
    installed = {line.partition("=")[0].strip() for line in lines if line}
    for page in PAGES:
        named = set(re.findall(r"`(accordion-[a-z]+)", text_of(page)))
        assert named <= installed, page
    assert set(re.findall(r"`(accordion-[a-z]+)", text_of("README.md"))) == installed


def test_the_page_on_extending_gives_the_arrows_that_hold():
    page = text_of("docs/extending.md")
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]*) \|$", page, re.MULTILINE)
    table = {room: set(re.findall(r"`(\w+)`", below)) for room, below in rows}
    assert {room: table[room] for room in ARROWS} == ARROWS
