"""The policy command as a person runs it, and a run that uses what it has written."""

import json

import pytest

from accordion_jax.depth import make_ladder, make_policy
from accordion_jax.depth.policy_file import PolicyFile
from tests.commands import call_main
from tests.delivery.toys import make_table

LADDER = make_ladder("coml", (1, 2))
SIZES = [4000, 20_000, 60_000, 200_000]


def write_table(folder, errors, name="run", seed=0, **facts):
    """A look-up table of a ladder of three blocks."""
    import dataclasses

    table = make_table([each.name for each in LADDER], SIZES, errors)
    rows = tuple(
        dataclasses.replace(row, stage_blocks=LADDER.stage_blocks(each), depth=each.depth)
        for row, each in zip(table.rows, LADDER, strict=True)
    )
    facts = {"scheme": "coml", "name": name, "dataset": "digits", "seed": seed, **facts}
    dataclasses.replace(table, rows=rows, provenance=facts).write(folder)
    return folder


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "run", [0.8, 0.5, 0.2, 0.1])


@pytest.fixture
def traces(tmp_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    for number in range(30):
        rows = "".join(f"{s},{((s * (number + 3)) % 7 + 1) / 2}\n" for s in range(12))
        (folder / f"{number:02d}.csv").write_text(f"time_s,downlink_mbps\n{rows}")
    return folder


def policy(*arguments):
    call_main("policy", *arguments)


def test_a_policy_of_a_link_has_its_provenance_and_trains_its_ladder(
    tmp_path, table, traces, capsys
):
    out = tmp_path / "link.json"
    policy(
        "link",
        f"--table={table}",
        f"--traces={traces}",
        "--deadline_s=0.1:0.25,0.3:0.75",
        "--floor=0.02",
        f"--out={out}",
    )
    said = capsys.readouterr().out
    found = PolicyFile.read(out)
    assert min(found.probabilities[1:]) >= 0.02
    assert f"nothing arrives in {100 * found.facts['nothing_arrives']:.2f} %" in said
    assert found.facts["deadlines_s"] == [[0.1, 0.25], [0.3, 0.75]]
    assert found.provenance["command"].startswith("python -m accordion_jax.policy link --table=")
    assert len(found.provenance["inputs_sha256"]) == 31, "the table, and each trace"
    assert (tmp_path / "link.png").stat().st_size > 5000
    made = make_policy("file", LADDER, {"path": str(out)})
    assert made.probabilities == pytest.approx(found.probabilities)


def test_models_of_a_link_and_wire_sizes(tmp_path, table, capsys):
    out = tmp_path / "p.json"
    flags = ("link", f"--table={table}", "--deadline_s=0.23", f"--out={out}")
    policy(*flags, "--link_model=constant:rate_bps=1e6")
    # 0.2 s are left after a round trip: 25,000 bytes.
    assert PolicyFile.read(out).probabilities == (0, 1, 0, 0)
    policy(*flags, "--link_model=constant:rate_bps=1e6", "--overhead_bytes=5001")
    assert PolicyFile.read(out).probabilities == (1, 0, 0, 0)
    policy(*flags, "--link_model=constant:rate_bps=1e6", "--full_probability=0.3")
    assert PolicyFile.read(out).probabilities == pytest.approx((0, 0.7, 0, 0.3))


def test_a_policy_of_a_bundle_counts_its_bytes(tmp_path, traces):
    from accordion_jax.delivery.bundle.writing import write_bundle
    from tests.delivery.toys import make_parts

    bundle = write_bundle(tmp_path / "bundles", **make_parts())
    out = tmp_path / "p.json"
    policy("link", f"--bundle={bundle}", f"--traces={traces}", "--deadline_s=1", f"--out={out}")
    assert PolicyFile.read(out).provenance["inputs_sha256"]["model_id"] == bundle.name


def test_demands_and_mixtures(tmp_path, table, capsys):
    one, two, both = (tmp_path / f"{name}.json" for name in ("one", "two", "both"))
    policy("demand", f"--table={table}", "--max_error=0.5:3,0.05:1", f"--out={one}")
    assert PolicyFile.read(one).probabilities == (0, 0.75, 0, 0.25)
    assert "no configuration has the error of 25.00 % of the demands" in capsys.readouterr().out
    policy("demand", f"--table={table}", "--max_bytes=60000,100", f"--out={two}")
    assert PolicyFile.read(two).probabilities == (0, 0, 1, 0)
    assert PolicyFile.read(two).facts["unserved"] == 0.5
    policy("mix", f"{one}:0.4", f"{two}:0.6", "--full_probability=0.5", f"--out={both}")
    assert PolicyFile.read(both).probabilities == pytest.approx((0, 0.15, 0.3, 0.55))
    assert " mix " in PolicyFile.read(both).provenance["command"]
    policy("mix", one, two, f"--out={both}")
    assert PolicyFile.read(both).probabilities == pytest.approx((0, 0.375, 0.5, 0.125))


def test_a_log_becomes_a_policy(tmp_path, table, capsys):
    lines = [
        {"plan": 1, "model": "m", "requirements": asked, "configuration": "coml-1"}
        for asked in ({"max_error": 0.5}, {"max_error": 0.2}, {"max_bytes": 70_000}, {})
    ]
    log, out = tmp_path / "plans.jsonl", tmp_path / "p.json"
    log.write_text("".join(json.dumps(each) + "\n" for each in lines) + "torn {")
    policy("demand", f"--table={table}", f"--log={log}", f"--out={out}")
    assert PolicyFile.read(out).probabilities == (0, 0.25, 0.5, 0.25)
    said = capsys.readouterr().out
    assert "4 plans of the endpoint's log" in said
    assert f"passed over 1 foreign line(s) of the log; {log}, line 5" in said


def test_runs_are_compared_over_links(tmp_path, traces, capsys):
    runs = [
        write_table(tmp_path / "a0", [0.8, 0.5, 0.2, 0.1], "net_a", 0),
        write_table(tmp_path / "a1", [0.8, 0.5, 0.3, 0.2], "net_a", 1),
        write_table(tmp_path / "b0", [0.7, 0.4, 0.2, 0.15], "net_b", 0),
    ]
    out = tmp_path / "e.json"
    policy(
        "evaluate",
        *runs,
        f"--traces={traces}",
        "--deadline_s=0.1,0.3",
        "--classes=10",
        "--reference=a",
        f"--out={out}",
    )
    said = capsys.readouterr().out
    assert "| expected top-1 error at the deadline | seeds | 0.1 s | 0.3 s |" in said
    document = json.loads(out.read_text())
    assert [(r["label"], r["deadline_s"], r["seeds"]) for r in document["rows"]] == [
        *(("a", 0.1, 2), ("b", 0.1, 1), ("a", 0.3, 2), ("b", 0.3, 1))
    ]
    assert document["rows"][1]["difference"]["value"] < 0
    assert (tmp_path / "e.png").stat().st_size > 5000


def test_runs_are_compared_by_what_meets_demands(tmp_path, traces, capsys):
    runs = [
        write_table(tmp_path / "a0", [0.8, 0.5, 0.2, 0.1], "net_a", 0),
        write_table(tmp_path / "a1", [0.8, 0.6, 0.2, 0.1], "net_a", 1),
        write_table(tmp_path / "b0", [0.5, 0.4, 0.3, 0.25], "net_b", 0),
    ]
    out = tmp_path / "d.json"
    demanded = ("--max_error=0.5:3,0.2:1", "--reference=a")
    policy("evaluate", *runs, *demanded, f"--out={out}")
    said = capsys.readouterr().out
    assert "| kB for a demand | seeds | 50 % (75 %) | 20 % (25 %) | mean | top-1 error |" in said
    # a sends 20 kB, or 60 where its second seed needs them; b 4 kB, and all for the other demand.
    assert "| a | 2 | 40.0 | 60.0 | 45.0 ± 21.2 | 31.25 ± 15.91 % | 0.00 ± 0.00 % |" in said
    assert "| b | 1 | 4.0 | - | 53.0; +8.0 | 43.75 % | 25.00 % |" in said
    document = json.loads(out.read_text())
    assert document.keys() == {"bytes_factor", "demands"}
    assert not out.with_suffix(".png").exists()

    links = (f"--traces={traces}", "--deadline_s=0.1,5")
    policy("evaluate", *runs, *demanded, *links, f"--out={out}")
    assert "| demands not met at the deadline | seeds | 0.1 s | 5 s |" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 5000
    rows = {(r["label"], r["deadline_s"]): r["value"] for r in json.loads(out.read_text())["rows"]}
    assert rows["a", 5.0] == pytest.approx(0, abs=1e-9)
    assert rows["b", 5.0] == pytest.approx(0.25), "one that no configuration meets"
    assert rows["b", 0.1] < rows["a", 0.1]


def test_bytes_of_another_precision(table, traces, capsys):
    flags = ("evaluate", table, "--link_model=constant:rate_bps=1e6", "--classes=10")
    # 25,000 bytes arrive within 0.2 s after two round trips, or 100,000 of four times as many.
    policy(*flags, "--deadline_s=0.26")
    assert "| 1 | 50.00 " in capsys.readouterr().out
    policy(*flags, "--deadline_s=0.26", "--bytes_factor=0.25")
    assert "| 1 | 20.00 " in capsys.readouterr().out


def test_the_best_is_chosen_on_links_that_are_not_tested_on(tmp_path, traces, capsys):
    runs = [
        write_table(tmp_path / "a0", [0.5, 0.4, 0.3, 0.3], "net_a"),
        write_table(tmp_path / "b0", [0.8, 0.7, 0.2, 0.1], "net_b"),
    ]
    others = tmp_path / "others"
    others.mkdir()
    (others / "fast.csv").write_text("time_s,downlink_mbps\n0,100\n")
    flags = ("evaluate", *runs, f"--traces={traces}", "--deadline_s=0.1", "--classes=10")
    policy(*flags, f"--choose_on={others}")
    assert "| best over 1 other links | 1 | b: " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"00\.csv is among the recordings that are tested on"):
        policy(*flags, f"--choose_on={traces}")


def test_a_guarantee_is_printed_with_what_it_assumes(table, traces, capsys):
    flags = ("guarantee", f"--table={table}", f"--traces={traces}", "--deadline_s=1,5")
    policy(*flags, "--confidence=0.9")
    said = capsys.readouterr().out
    assert said.count("\n") == 3
    assert "With probability 0.9 over links and images" in said
    assert "Assumed: 30 recordings, one start each, independent" in said
    policy(*flags, "--confidence=0.9", "--block_s=3")
    assert "Assumed: 120 blocks of 3 s" in capsys.readouterr().out
    policy(*flags, "--confidence=0.9", "--content=0.8")
    assert "at least 80 % of the links" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of link, demand, mix, evaluate, guarantee, convergence; got 'none'"),
        (("fit",), "give one of link,.*got 'fit'"),
        (("link", "--log=x"), "link has no flag --log; it takes --table"),
        (("link", "more"), r"link takes flags alone; got \['more'\]"),
        (("mix",), "mix names at least one file or run"),
        (("link", "--out=x.json"), "give one of --table, --bundle; got none"),
        (("link", "--table={table}", "--bundle=x"), "; got --table, --bundle"),
        (("link", "--table={table}"), "give one of --traces, --link_model; got none"),
        (("link", "--table={table}", "--traces={traces}"), "give --deadline_s"),
        (
            ("link", "--table={table}", "--traces={traces}", "--deadline_s=0.1:0.5,0.3:0.4"),
            r"--deadline_s's 2 probabilities sum to 0\.9",
        ),
        (
            ("link", "--table={table}", "--traces={traces}", "--deadline_s=-1"),
            "-1 must be above 0",
        ),
        (
            ("link", "--table={table}", "--traces={traces}", "--deadline_s=0.02", "--out=x.json"),
            "not even the smallest configuration arrives in time",
        ),
        (("link", "--table={table}", "--traces={traces}", "--deadline_s=1"), "give --out="),
        (("demand", "--table={table}", "--out=x.json"), "give one of --max_error"),
        (("demand", "--table={table}", "--max_error=20"), "did you mean 0.2"),
        (("evaluate", "{table}", "--traces={traces}"), "give one of --classes, --max_error; got n"),
        (
            ("evaluate", "{table}", "--max_error=0.3", "--classes=10"),
            "; got --classes, --max_error",
        ),
        (("evaluate", "{table}", "--max_error=30"), "did you mean 0.3"),
        (("evaluate", "{table}", "--max_error=0.3:0"), "no demands with a share above 0"),
        (
            ("evaluate", "{table}", "--max_error=0.3", "--deadline_s=1"),
            "give one of --traces, --link_model; got none",
        ),
        (
            ("evaluate", "{table}", "--max_error=0.3", "--traces={traces}"),
            "give --deadline_s",
        ),
        (("guarantee", "--table={table}", "--deadline_s=1"), "give --traces: a guarantee rests"),
        (("convergence", "{table}"), "has no errors measured"),
        (("convergence", "{table}", "--errors=30"), "not a percentage"),
    ],
)
def test_what_is_wrong_is_told_in_words(arguments, message, tmp_path, table, traces, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Exception, match=message):
        policy(*(each.format(table=table, traces=traces) for each in arguments))
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left half written"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "has no rows"),
        ("0,-1\n", "is negative"),
        ("1,2\n0,3\n", "sort the rows by time"),
        ("0,x\n", "is not a finite number"),
    ],
)
def test_traces_that_are_none_are_refused(rows, message, tmp_path, table):
    (tmp_path / "t.csv").write_text(f"time_s,downlink_mbps\n{rows}")
    out = tmp_path / "p.json"
    with pytest.raises(ValueError, match=message):
        policy(
            *("link", f"--table={table}", f"--traces={tmp_path / 't.csv'}"),
            *("--deadline_s=1", f"--out={out}"),
        )
    assert not out.exists()


def test_policies_of_two_ladders_are_not_mixed(tmp_path, table):
    policy("demand", f"--table={table}", "--max_error=0.5", f"--out={tmp_path / 'a.json'}")
    other = (tmp_path / "a.json").read_text().replace("coml-", "other-")
    (tmp_path / "b.json").write_text(other)
    with pytest.raises(ValueError, match=r"b\.json is a policy of another ladder \(other-0 to"):
        policy("mix", tmp_path / "a.json", tmp_path / "b.json", f"--out={tmp_path / 'c.json'}")
    assert not (tmp_path / "c.json").exists()


def test_fitting_needs_no_jax(run_command, tmp_path, table):
    import subprocess
    import sys

    from tests.commands import ROOT, command_environment

    code = (
        "import sys; from accordion_jax import policy; sys.exit("
        "'jax' in sys.modules or 'starlette' in sys.modules or 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=command_environment(), check=False
    )
    assert done.returncode == 0
    done = run_command(
        "accordion_jax.policy",
        *("demand", f"--table={table}", "--max_error=0.5", f"--out={tmp_path / 'a.json'}"),
    )
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout
    refused = run_command("accordion_jax.policy", "demand", f"--table={table}", "--max_error=50")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("error: max_error=50.0 must be a share")
