"""What is printed is what is written, and a command that fails writes nothing."""

import json
import platform

import pytest

from benchmarks.report import Report
from benchmarks.timing import Sample
from tests.benchmarks.tables import rows_of


def test_tables_are_printed_and_written(tmp_path, capsys):
    path = tmp_path / "found.json"
    with Report("what is measured", str(path)) as report:
        report.table({"side": "", "seconds": ".2f", "launches": ",d"})
        report.row("ours", Sample((1.0, 2.0, 4.0)), 1234)
        report.row("theirs", 3.14159, None)
        report.note("on one core")
    printed = capsys.readouterr().out
    assert printed.startswith("what is measured\n")
    assert f"Python {platform.python_version()}, jax " in printed
    assert rows_of(printed) == [
        {"side": "ours", "seconds": "2.00 (1.00 to 4.00)", "launches": "1,234"},
        {"side": "theirs", "seconds": "3.14", "launches": "-"},
    ]
    document = json.loads(path.read_text())
    assert document["title"] == "what is measured"
    assert document["machine"] in printed
    assert document["tables"] == [
        {
            "columns": ["side", "seconds", "launches"],
            "rows": [["ours", [1.0, 2.0, 4.0], 1234], ["theirs", 3.14159, None]],
        }
    ]
    assert document["notes"] == ["on one core"]


def test_a_command_that_fails_writes_no_results(tmp_path):
    path = tmp_path / "found.json"
    with pytest.raises(RuntimeError, match="in the middle"), Report("what is measured", str(path)):
        raise RuntimeError("in the middle")
    assert not path.exists()
