"""The report: run as a person runs it, its tables read and its errors."""

import dataclasses

import pytest
from absl import app
from PIL import Image

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row
from accordion_jax.evaluation import without_common
from accordion_jax.runs import config as config_lib
from tests.commands import call_main
from tests.delivery.resnets import write_chained

LADDER = make_ladder("coml", (1, 1, 1))
# The base is 10 % of the bytes, the blocks 15, 25 and 50.
BASE = UnitCost(10, 100, 1)
BLOCKS = (UnitCost(15, 150, 1), UnitCost(25, 250, 1), UnitCost(50, 500, 1))


def write_run(folder, errors, *, seed=0, name="mine", ladder=LADDER, facts=None, **config):
    """Writes a look-up table as the main job does, of 1000 examples."""
    rows = tuple(
        make_row(
            ladder, each, base=BASE, blocks=BLOCKS, examples=1000, errors=count, cross_entropy=1.0
        )
        for each, count in zip(ladder, errors, strict=True)
    )
    provenance = {
        "name": name,
        "dataset": "digits",
        "split": "test",
        "seed": seed,
        "config": {
            "seed": seed,
            "data": {"name": "digits", "dir": str(folder)},
            "optimizer": {"learning_rate": 0.1},
            "run": {"log_every_steps": 1 + seed},
            "sweep": {"batch_size": 500 + seed, "checkpoint": "latest"},
        }
        | config,
    }
    LookupTable(rows, provenance | (facts or {})).write(folder)
    return folder


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables_in(output):
    """The Markdown tables in a text: each a dict from the first cell to the other ones."""
    tables = []
    for block in output.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            rows = [cells_of(line) for line in lines if "---" not in line]
            tables.append({first: rest for first, *rest in rows})
    return tables


@pytest.fixture
def call(capsys):
    """Calls the report in this process; returns what it prints."""

    def call(*arguments):
        call_main("report", *arguments)
        return capsys.readouterr().out

    return call


def test_a_report_of_several_runs(call, tmp_path):
    """Three seeds of one experiment, the same with another learning rate, and another network."""
    runs = [
        write_run(tmp_path / "a0", (900, 500, 300, 200), seed=0),
        write_run(tmp_path / "a1", (900, 520, 310, 260), seed=1),
        write_run(tmp_path / "a2", (900, 540, 320, 290), seed=2),
        write_run(tmp_path / "b", (800, 450, 350, 400), seed=0, optimizer={"learning_rate": 0.05}),
        write_run(tmp_path / "c", (700, 600, 550, 500), seed=0, name="other"),
    ]
    picture = tmp_path / "figures" / "all.png"
    output = call(*runs[:-1], runs[-1] / "lookup_table.json", f"--out={picture}")
    at_shares, at_errors, at_macs = tables_in(output)
    assert at_shares == {
        "top-1 error at a share of the bytes": ["seeds", "10 %", "25 %", "50 %", "75 %", "100 %"],
        # 52 ± 2 % at 25 % of the bytes; the standard deviation of 20, 26 and 29 % is 4.58.
        "mine": [
            "3",
            "90.00 % ± 0.00",
            "52.00 % ± 2.00",
            "31.00 % ± 1.00",
            "31.00 % ± 1.00",
            "25.00 % ± 4.58",
        ],
        # With all its bytes one may run the second largest, which is the better one.
        "mine #2": ["1", "80.00 %", "45.00 %", "35.00 %", "35.00 %", "35.00 %"],
        "other": ["1", "70.00 %", "60.00 %", "55.00 %", "55.00 %", "50.00 %"],
    }
    assert at_errors == {
        "least share of the bytes for a top-1 error": [
            "seeds",
            "10 %",
            "20 %",
            "30 %",
            "40 %",
            "50 %",
        ],
        # 30 %: with 50, 100 and 100 % of the bytes. 20 % only one seed reaches.
        "mine": ["3", "-", "-", "83.33 % ± 28.87", "50.00 % ± 0.00", "41.67 % ± 14.43"],
        "mine #2": ["1", "-", "-", "-", "50.00 %", "25.00 %"],
        "other": ["1", "-", "-", "-", "-", "100.00 %"],
    }
    title, *columns = next(iter(at_macs)), *next(iter(at_macs.values()))
    assert title == "10^6 multiply-accumulates for a top-1 error"
    assert columns == ["seeds", "10 %", "20 %", "30 %", "40 %", "50 %"]
    # Of 100, 250 and 500 each block, and 1 the base; 40 % is reached with two blocks.
    assert at_macs["mine #2"] == ["1", "-", "-", "-", "0.00", "0.00"]
    assert output.rstrip().endswith(str(picture))
    with Image.open(picture) as image:
        image.load()


def test_shares_errors_and_axis_may_be_chosen(call, tmp_path):
    run = write_run(tmp_path / "run", (900, 500, 300, 200))
    output = call(
        run,
        f"--out={tmp_path}/figure.svg",
        "--shares=5,12.5",
        "--errors=95",
        "--bits_per_parameter=64",
    )
    at_shares, at_errors, _ = tables_in(output)
    assert at_shares["mine on digits"] == ["1", "-", "90.00 %"]
    assert at_errors["mine on digits"] == ["1", "10.00 %"]
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_errors_say_what_is_wrong(call, tmp_path):
    run = write_run(tmp_path / "run", (900, 500, 300, 200), seed=4)
    twin = write_run(tmp_path / "twin", (900, 500, 300, 250), seed=4)
    fewer = write_run(tmp_path / "fewer", (900, 300), seed=5, ladder=LADDER.subset([0]))
    facts = {"error_name": "error of the next token"}
    other = write_run(tmp_path / "other", (900, 500, 300, 200), name="tokens", facts=facts)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "lookup_table.json").write_text("{")
    out = f"--out={tmp_path}/figure.png"
    calls = {
        (
            run,
            other,
            out,
        ): "mine measures the top-1 error, tokens the error of the next token; draw",
        (): "name at least one run",
        (run, "--shares=10,150"): "--shares: '150' is not a per cent in (0, 100]",
        (run, "--errors=0"): "--errors: '0' is not a per cent",
        (run, "--errors=ten"): "--errors: 'ten' is not a per cent",
        (run, tmp_path / "none", out): f"no look-up table at {tmp_path}/none",
        (damaged, out): f"{damaged}/lookup_table.json is not JSON",
        (run, twin, out): "mine on digits: seed 4 was given twice",
        (run, run, out): "mine on digits: seed 4 was given twice",
        (run, fewer, out): "mine on digits: runs to average must have the same",
        (run, f"--out={tmp_path}/figure"): f"{tmp_path}/figure ",
        (run, f"--out={tmp_path}/figure.xyz"): f"{tmp_path}/figure.xyz ",
    }
    for arguments, wanted in calls.items():
        with pytest.raises((ValueError, FileNotFoundError, app.UsageError)) as refused:
            call(*arguments)
        assert str(refused.value).startswith(wanted)
    assert not list(tmp_path.glob("*figure*"))


def test_fails_in_one_line(run_command, tmp_path):
    result = run_command("accordion_jax.report", tmp_path / "none")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: no look-up table at {tmp_path}/none")


def test_an_error_of_another_name_is_called_so(call, tmp_path):
    facts = {"error_name": "error of the next token"}
    run = write_run(tmp_path / "run", (900, 500, 300, 200), facts=facts)
    output = call(run, f"--out={tmp_path}/figure.svg")
    titles = [next(iter(table)) for table in tables_in(output)]
    assert titles == [
        "error of the next token at a share of the bytes",
        "least share of the bytes for an error of the next token",
        "10^6 multiply-accumulates for an error of the next token",
    ]
    picture = (tmp_path / "figure.svg").read_text()
    assert "<!-- error of the next token, % -->" in picture
    assert "top-1" not in picture


def test_a_checkpoint_or_split_of_another_kind_is_another_curve(call, tmp_path):
    runs = [
        write_run(tmp_path / "latest", (900, 500, 300, 200)),
        write_run(tmp_path / "best", (900, 500, 300, 100), sweep={"checkpoint": "best"}),
    ]
    table = LookupTable.read(runs[0])
    validation = dataclasses.replace(table, provenance=table.provenance | {"split": "validation"})
    validation.write(tmp_path / "validation")
    output = call(*runs, tmp_path / "validation", f"--out={tmp_path}/figure.png")
    at_shares, *_ = tables_in(output)
    full = {label: cells[-1] for label, cells in at_shares.items()}
    assert full == {
        "top-1 error at a share of the bytes": "100 %",
        "mine": "20.00 %",
        "mine #2": "10.00 %",
        "mine #3": "20.00 %",
    }


def test_seeds_of_an_earlier_version_go_with_those_of_this_one(call, tmp_path):
    new = config_lib.to_jsonable(config_lib.default_config())
    new = {k: v for k, v in new.items() if k not in ("seed", "name", "scheme")}
    # As the first versions wrote it: one objective, a policy for the full model alone.
    old = {k: v for k, v in new.items() if k not in ("train", "sweep")} | {
        "objective": "drawn_depth",
        "policy": {"name": "full_or_uniform", "full_probability": 1.0, "min_depth": 1}
        | {"probabilities": [], "seed": -1},
        "train": {k: v for k, v in new["train"].items() if k not in ("start_from", "bits")},
        "sweep": {k: v for k, v in new["sweep"].items() if k != "own_statistics"},
    }
    scheme = {"scheme": "resnet"}
    runs = [
        write_run(tmp_path / "old", (900, 500, 300, 200), seed=0, **old, **scheme),
        write_run(tmp_path / "new", (900, 500, 300, 220), seed=1, **new, **scheme),
        # Another scheme is another experiment.
        write_run(tmp_path / "other", (900, 500, 300, 240), seed=1, **new),
    ]
    at_shares, *_ = tables_in(call(*runs, f"--out={tmp_path}/figure.png"))
    assert at_shares["mine"][0] == "2"
    assert at_shares["mine"][-1] == "21.00 % ± 1.41"
    assert at_shares["mine #2"][0] == "1"


def test_the_largest_depth_is_compared_with_a_reference(call, tmp_path):
    runs = [
        write_run(tmp_path / "a0", (900, 500, 300, 200), seed=0, name="net_plain"),
        write_run(tmp_path / "a1", (900, 520, 310, 240), seed=1, name="net_plain"),
        write_run(tmp_path / "b", (800, 450, 350, 270), name="net_mine"),
    ]
    output = call(*runs, f"--out={tmp_path}/figure.png", "--reference=plain")
    *_, behind = tables_in(output)
    assert behind == {
        "at the largest depth": ["seeds", "error", "behind plain"],
        "plain": ["2", "22.00 % ± 2.83", "0.00 % ± 2.83"],
        "mine": ["1", "27.00 %", "5.00 %"],
    }
    with pytest.raises(ValueError, match=r"--reference='net' is none of 'plain', 'mine'"):
        call(*runs, f"--out={tmp_path}/figure.png", "--reference=net")


def test_of_one_depth_that_was_trained_alone_only_that_one_counts(call, tmp_path):
    facts = {"policy": {"name": "only"}}
    run = write_run(tmp_path / "a", (900, 500, 300, 800), facts=facts, policy={"depth": 2})
    at_shares, *_, behind = tables_in(
        call(run, f"--out={tmp_path}/f.png", "--reference=mine on digits")
    )
    assert at_shares["mine on digits"] == ["1", "-", "-", "30.00 %", "30.00 %", "30.00 %"]
    assert behind["mine on digits"] == ["1", "30.00 %", "0.00 %"]


@pytest.mark.parametrize(
    ("labels", "title", "left"),
    [
        (["a_b on digits"], "a_b on digits", ["a_b on digits"]),
        (["a_b on digits", "a_c on digits"], "a on digits", ["b", "c"]),
        (["net_coml-05 on x", "net_coml-05 on x #2"], "net on x", ["coml-05", "coml-05 #2"]),
        (["one on digits", "other on digits"], "digits", ["one", "other"]),
        (["a_b on digits", "a_b on cifar10"], "", ["a_b on digits", "a_b on cifar10"]),
    ],
)
def test_labels_say_what_differs(labels, title, left):
    assert without_common(labels) == (title, left)


def test_a_bundle_shows_its_bits_beside_its_blocks(tmp_path, capsys):
    folder, *_ = write_chained(tmp_path / "bundles")
    manifest = read_manifest(folder)
    errors = [row.top1_error for row in manifest.table.rows]
    wanted = f"{100 * errors[-2]:g}"
    run = write_run(tmp_path / "mine", (900, 700, 500, 300))
    call_main("report", folder, f"--errors={wanted}", f"--out={tmp_path / 'figure.png'}")
    *_, kilobytes, blocks, bits = tables_in(capsys.readouterr().out)
    row = min(
        (
            manifest.rows[each.name]
            for each in manifest.path
            if manifest.rows[each.name].top1_error <= errors[-2]
        ),
        key=lambda row: row.size_bytes,
    )
    (label,) = [each for each in bits if "bundle" in each and "weight" not in each]
    assert "in 4 and 8 bits" in label
    assert kilobytes[label][1] == f"{row.size_bytes / 1e3:.2f}"
    assert blocks[label][1] == f"{row.depth:.2f}"
    assert bits[label][1] == f"{row.bits:.2f}"
    assert 4 < row.bits < 8
    # Of runs alone there are no such tables.
    call_main("report", run, f"--out={tmp_path / 'figure.png'}")
    assert "bits a weight" not in capsys.readouterr().out
