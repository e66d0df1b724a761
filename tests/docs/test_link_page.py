"""docs/policies.md shows what its commands print over the recorded links, and nothing else."""

import json
import os
import pathlib
import re
import shlex
import shutil

import pytest

from tests.commands import ROOT, call_main

PAGE = ROOT / "docs" / "policies.md"
_FIGURE = re.compile(r"[+-]\d+\.\d\d \[[^\]]*\]")


def section():
    page = PAGE.read_text(encoding="utf-8")
    return page[page.index("## Which policy") : page.index("## What is refused")]


def commands():
    """Arguments of each evaluation that the section names, and one that it describes."""
    joined = re.sub(r"\\\n\s*", " ", section())
    found = [
        shlex.split(line) for line in re.findall(r"-m accordion_jax.policy (evaluate .*)", joined)
    ]
    assert len(found) == 3
    uniform = [{"--reference=coml-05": "--reference=coml-01"}.get(each, each) for each in found[0]]
    return [*found, uniform]


@pytest.mark.slow
def test_the_tables_and_figures_are_those_that_the_commands_print(tmp_path, capsys, monkeypatch):
    folder = os.environ.get("ACCORDION_TRACES")
    if not folder:
        pytest.skip("ACCORDION_TRACES names no folder of measured traces")
    split = json.loads((ROOT / "results/link/split.json").read_text())
    for half in ("fit", "test"):
        (tmp_path / half).mkdir()
        for name in split[half]:
            if not (pathlib.Path(folder) / name).is_file():
                pytest.skip(f"ACCORDION_TRACES names a folder without {name}")
            shutil.copyfile(pathlib.Path(folder) / name, tmp_path / half / name)
    said, printed = section(), []
    monkeypatch.chdir(ROOT)
    for number, arguments in enumerate(commands()):
        runs = sorted(str(path) for path in ROOT.glob(arguments[1]))
        flags = [
            each.replace("runs/links", str(tmp_path))
            for each in arguments[2:]
            if not each.startswith("--out=")
        ]
        call_main("policy", "evaluate", *runs, *flags)
        printed.append(capsys.readouterr().out)
        if number < 3:
            assert printed[-1].split("\n\n")[0] in said
    shown = _FIGURE.findall(re.sub(r"^\|.*$", "", said, flags=re.MULTILINE))
    assert len(shown) > 10
    for figure in shown:
        assert any(figure in text for text in printed), figure
    shares = re.findall(r"([\d.]+) % at", printed[0])
    assert f"Nothing arrives in {shares[0]}, {shares[1]} and {shares[2]} % of the cases" in said
