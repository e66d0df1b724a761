"""What the policy command, and the rooms that it is made of, tell people to do helps."""

import dataclasses
import json
import re

import numpy as np
import pytest
from absl import app

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.plan_log import PlanLog, read_plan_log
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.models import parse_model
from accordion_jax.delivery.links.traces import Trace
from accordion_jax.delivery.planner import Requirements
from accordion_jax.depth import make_ladder, make_policy
from accordion_jax.depth.policy_file import PolicyFile
from tests.commands import call_main
from tests.delivery.toys import make_parts, make_table
from tests.remedies.refusals import refused

SIZES = [4000, 20_000, 60_000, 200_000, 500_000]
ERRORS = [0.8, 0.5, 0.2, 0.1, 0.05]


@pytest.fixture(autouse=True)
def in_a_folder_with_runs_links_and_a_log(tmp_path, monkeypatch, no_pictures):
    """Where people are when they give the command; names in these tests are of its files."""
    monkeypatch.chdir(tmp_path)
    write_table("run", "coml", (1, 2))
    records = [
        {"step": 50, "split": "train", "images_per_second": 500.0, "error": 0.8},
        {"step": 50, "split": "test", "error": 0.5, "error_depth_1": 0.7, "error_depth_3": 0.3},
    ]
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    config = {"config": {"train": {"batch_size": 100}}}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    (tmp_path / "traces").mkdir()
    for number in range(1, 31):
        rows = f"0,{number / 10}\n1,{number / 5}\n"
        (tmp_path / f"traces/{number}.csv").write_text(f"time_s,downlink_mbps\n{rows}")
    write_bundle("bundles", **make_parts())
    log = PlanLog("plans.jsonl")
    log.write("a" * 64, Requirements(max_error=0.2), "coml-2")
    log.close()


@pytest.fixture
def no_pictures(monkeypatch):
    """Their charts take longer than all else here, and are tested with the command."""
    for draw in ("draw_policies", "draw_over_links"):
        monkeypatch.setattr(f"accordion_jax.delivery.links.charts.{draw}", lambda *_, **__: None)


def write_table(folder, scheme, stage_sizes):
    """A look-up table of a ladder of up to five configurations."""
    ladder = make_ladder(scheme, stage_sizes)
    count = len(ladder)
    table = make_table([each.name for each in ladder], SIZES[:count], ERRORS[:count])
    rows = tuple(
        dataclasses.replace(
            row,
            stage_blocks=ladder.stage_blocks(each),
            depth=each.depth,
            share_of_blocks=each.depth / ladder.full.depth,
        )
        for row, each in zip(table.rows, ladder, strict=True)
    )
    facts = {"scheme": scheme, "name": folder, "dataset": "digits", "seed": 0}
    dataclasses.replace(table, rows=rows, provenance=facts).write(folder)
    return ladder


def policy(text):
    """Gives the command, and returns the probabilities that it has written, if it has."""
    arguments = text.split()
    call_main("policy", *arguments)
    out = [each.partition("=")[2] for each in arguments if each.startswith("--out=")]
    if out and arguments[0] != "evaluate":
        return PolicyFile.read(out[0]).probabilities
    return None


LINK = "link --table=run --traces=traces --deadline_s=0.3 --out=link.json"
DEMAND = "demand --table=run --max_error=0.5 --out=demand.json"
EVALUATE = "evaluate run --traces=traces --deadline_s=0.3 --classes=10"
GUARANTEE = "guarantee --table=run --traces=traces --deadline_s=2"
CONVERGENCE = "convergence run"
COMMANDS = {
    each.split()[0]: each
    for each in (LINK, DEMAND, EVALUATE, GUARANTEE, CONVERGENCE, "mix demand.json --out=mix.json")
}


def without(command, flag):
    """The command, one of its flags left out."""
    left = re.sub(rf" --{flag}=\S+", "", command)
    assert left != command
    return left


@pytest.mark.tries("give one of {}; got {}", "names at least one file or run")
def test_a_sub_command_and_what_it_takes(capsys):
    policy(DEMAND)  # what is mixed
    with refused(app.UsageError) as said:
        policy("")
    names = re.fullmatch("give one of (.*); got 'none'", said[0])[1].split(", ")
    assert sorted(names) == sorted(COMMANDS)
    for name in names:
        policy(COMMANDS[name])
        assert capsys.readouterr().out
    for name in ("mix", "evaluate", "convergence"):
        first, _, *rest = COMMANDS[name].split()
        with refused(app.UsageError) as said:
            policy(" ".join([first, *rest]))
        assert f"{name} names at least one file or run" in said[0]
    with refused(app.UsageError) as said:
        policy(f"{GUARANTEE} --link_model=constant:rate_bps=1e6")
    takes = re.fullmatch("guarantee has no flag --link_model; it takes (.*)", said[0])[1]
    assert set(re.findall(r"--\w+", GUARANTEE)) <= set(takes.split(", "))


@pytest.mark.tries("give one of {}; got {}")
@pytest.mark.parametrize(
    ("flags", "command"),
    [
        (("--classes=10", "--max_error=0.5"), "evaluate run --traces=traces --deadline_s=0.3"),
        (("--table=run", "--bundle={bundle}"), "link --link_model=constant:rate_bps=1e6"),
        (("--table=run", "--bundle={bundle}"), "demand --max_error=0.5"),
        (("--table=run", "--bundle={bundle}"), "guarantee --traces=traces"),
        (("--traces=traces", "--link_model=constant:rate_bps=1e6"), "link --table=run"),
        (("--traces=traces", "--link_model=constant:rate_bps=1e6"), "evaluate run --classes=9"),
        (("--max_error=0.5", "--max_bytes=70000", "--log=plans.jsonl"), "demand --table=run"),
    ],
)
def test_one_flag_of_those_there_are(tmp_path, capsys, flags, command):
    (bundle,) = (tmp_path / "bundles").iterdir()
    flags = [each.format(bundle=bundle) for each in flags]
    command += "" if command.startswith("demand") else " --deadline_s=1"
    command += "" if command.startswith("guarantee") else " --out=p.json"
    for given in ([], flags[:2], flags[-2:], flags):
        if len(given) == 1:
            continue
        with refused(app.UsageError) as said:
            policy(" ".join([command, *given]))
        wanted, got = re.fullmatch("give one of (.*); got (.*)", said[0]).groups()
        assert got == (", ".join(each.partition("=")[0] for each in given) or "none")
        assert wanted.split(", ") == [each.partition("=")[0] for each in flags]
    capsys.readouterr()
    for flag in flags:
        policy(f"{command} {flag}")
        assert capsys.readouterr().out


@pytest.mark.tries(
    "give --deadline_s, seconds from the request",
    "give --traces: a guarantee rests on measured links",
    "give --out=FILE.json; got {}",
)
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        *((name, "deadline_s") for name in ("link", "evaluate", "guarantee")),
        ("guarantee", "traces"),
        *((name, "out") for name in ("link", "demand", "mix")),
    ],
)
def test_a_flag_that_is_wanted(name, flag, capsys):
    policy(DEMAND)
    capsys.readouterr()
    with refused(app.UsageError) as said:
        policy(without(COMMANDS[name], flag))
    assert said[0].startswith(f"give --{flag}")
    policy(COMMANDS[name])
    assert capsys.readouterr().out


@pytest.mark.tries("is among the recordings that are tested on; choose on others than these")
def test_what_is_chosen_on_is_not_tested_on(tmp_path, capsys):
    (tmp_path / "others").mkdir()
    for number in range(1, 30, 2):
        (tmp_path / f"traces/{number}.csv").rename(tmp_path / f"others/{number}.csv")
    (tmp_path / "others/2.csv").write_bytes((tmp_path / "traces/2.csv").read_bytes())
    with refused() as said:
        policy(f"{EVALUATE} --choose_on=others")
    (tmp_path / re.match(r"(\S+) is among", said[0])[1]).unlink()
    policy(f"{EVALUATE} --choose_on=others")
    assert "best over 15 other links" in capsys.readouterr().out


@pytest.mark.tries("give --out=FILE.json; got {}")
@pytest.mark.parametrize("command", [LINK, f"{EVALUATE} --out=expected.json"])
def test_the_file_to_write_is_of_json(tmp_path, capsys, command):
    # Its chart is beside it, FILE.png, which the other name would write over.
    before = sorted(tmp_path.rglob("*"))
    with refused(app.UsageError) as said:
        policy(command.replace(".json", ".png"))
    assert re.fullmatch(r"give --out=FILE\.json; got '\w+\.png'", said[0])
    assert sorted(tmp_path.rglob("*")) == before
    policy(command)
    (written,) = set(tmp_path.rglob("*")) - set(before)
    assert json.loads(written.read_text())


@pytest.mark.tries("allow a longer deadline, take a faster link, or send a smaller model")
def test_something_arrives(capsys):
    command = "link --table=run --deadline_s=0.05 --link_model=constant:rate_bps=1e6 --out=p.json"
    with refused() as said:
        policy(command)
    assert said[0].startswith("not even the smallest configuration arrives in time")
    for change in (
        ("=0.05", "=0.07"),
        ("rate_bps=1e6", "rate_bps=2e6"),
        ("--table=run", "--table=small"),
    ):
        if "small" in change[1]:
            table = make_table(["small", "full"], [2000, 9000], [0.9, 0.5])
            table.write("small")
        assert policy(command.replace(*change))[0] == 1


@pytest.mark.tries("there are no demands with a share above 0; give at least one")
def test_some_demand():
    with refused() as said:
        policy(DEMAND.replace("=0.5", "=0.5:0,0.2:0"))
    assert said[0].endswith("give at least one")
    assert policy(DEMAND.replace("=0.5", "=0.5:0,0.2:1")) == (0, 0, 1, 0)


@pytest.mark.tries("has plans of several models; choose one with --model: {}")
def test_the_model_whose_plans_count():
    command = "demand --table=run --log=plans.jsonl* --out=asked.json"
    log = PlanLog("plans.jsonl.1")
    for _ in range(2):
        log.write("b" * 64, Requirements(max_error=0.5), "coml-1")
    log.close()
    with refused() as said:
        policy(command)
    models = dict(re.findall(r"(\w+) \((\d+)\)", said[0].rpartition("--model: ")[2]))
    assert models == {"a" * 16: "1", "b" * 16: "2"}
    assert policy(f"{command} --model={'a' * 16}") == (0, 0, 1, 0)
    assert policy(f"{command} --model={'b' * 16}") == (0, 1, 0, 0)
    assert policy(f"{command} --model={'b' * 64}") == (0, 1, 0, 0), "as bundles and devices name it"
    with refused() as said:
        policy(f"{command} --model=c")
    for model in re.search("'c'; it has (.*)$", said[0])[1].split(", "):
        assert sum(read_plan_log(["plans.jsonl", "plans.jsonl.1"], model).requirements.values())


@pytest.mark.tries("of a trace that ends, later starts have less time; use loop=True")
def test_every_moment_of_a_trace_that_loops():
    trace = Trace("link", (0.0, 1.0), (8000.0, 0.0), 2.0)
    with refused() as said:
        Link(trace, loop=False).arrival([1000], 1.5)
    assert said[0].endswith("use loop=True")
    # 1,000 bytes take the one second that the link is on: of starts, those from 0.5 s before it.
    assert Link(trace, loop=True).arrival([1000], 1.5) == pytest.approx([0.25])


@pytest.mark.tries("so that it carries its mean rate all the time; use ")
@pytest.mark.parametrize(("on_s", "off_s"), [(1e-8, 3e-8), (3e-8, 1e-8)])
def test_a_link_that_flickers_is_one_of_its_mean_rate(on_s, off_s):
    mean = 6e6 * on_s / (on_s + off_s)
    command = "link --table=run --deadline_s=0.3 --out=p.json --link_model="
    with refused() as said:
        policy(f"{command}onoff:rate_bps=6e6,on_s={on_s},off_s={off_s}")
    model = re.search("use (.*)$", said[0])[1]
    # 0.27 s are left after a round trip: 50,600 bytes at 1.5 Mbit/s, 151,900 at 4.5.
    found = policy(command + model)
    assert found == ((0, 1, 0, 0) if on_s < off_s else (0, 0, 1, 0))
    # One that flickers a thousandth as often, and is summed, says the same.
    np.testing.assert_allclose(
        policy(f"{command}onoff:rate_bps=6e6,on_s={1e3 * on_s},off_s={1e3 * off_s}"),
        found,
        atol=1e-6,
    )
    sizes = np.array([0.99, 1.01]) * mean / 8
    np.testing.assert_array_equal(parse_model(model).arrival(sizes, 1.0), [1, 0])


def test_next_to_no_fading_is_told_of_no_other_model():
    """Here it once said that the link goes on and off, and named a model without a rate."""
    found = policy(
        "link --table=run --deadline_s=0.3 --out=p.json "
        "--link_model=rician:bandwidth_hz=2e6,snr_db=10,k_db=80"
    )
    assert found == pytest.approx((0, 0, 0, 1)), "6.9 Mbit/s for 0.24 s are 208 kB"


@pytest.mark.tries("is not known; choose one of {}")
def test_a_model_of_a_link_that_there_is():
    numbers = {
        "rate_bps": "1e6",
        "median_bps": "1e6",
        "bandwidth_hz": "1e6",
        "sigma": "0.5",
        "snr_db": "10",
        "k_db": "3",
        "on_s": "1",
        "off_s": "0.1",
    }
    command = "link --table=run --deadline_s=0.3 --out=p.json --link_model="
    with refused() as said:
        policy(f"{command}nakagami:m=2")
    names = re.findall(r"'(\w+)'", said[0].partition("choose one of")[2])
    assert len(names) >= 5
    for name in names:
        with refused() as said:
            policy(command + name)
        wanted = re.search(r"takes ((\w+=NUMBER,?)+)$", said[0])[1]
        given = re.sub(r"(\w+)=NUMBER", lambda each: f"{each[1]}={numbers[each[1]]}", wanted)
        assert sum(policy(f"{command}{name}:{given}")) == pytest.approx(1)


@pytest.mark.tries(
    "blocks a stage, the one to train {}; fit it with a table of this model",
    "does; fit it with a table of this scheme",
)
@pytest.mark.parametrize(
    ("scheme", "stage_sizes", "of"), [("coml", (2, 2), "model"), ("blockcoml", (1, 2), "scheme")]
)
def test_a_policy_is_fitted_with_a_table_of_what_is_trained(scheme, stage_sizes, of):
    policy(DEMAND)
    ladder = write_table("other", scheme, stage_sizes)
    with refused() as said:
        make_policy("file", ladder, {"path": "demand.json"})
    assert said[0].endswith(f"fit it with a table of this {of}")
    found = policy(DEMAND.replace("--table=run", "--table=other"))
    assert make_policy("file", ladder, {"path": "demand.json"}).probabilities == found


@pytest.mark.tries("; fit both with one table")
def test_policies_of_one_table_are_mixed():
    policy(DEMAND)
    write_table("other", "coml", (2, 2))
    policy(LINK.replace("--table=run", "--table=other"))
    mix = "mix demand.json:0.5 link.json:0.5 --out=mix.json"
    with refused() as said:
        policy(mix)
    assert said[0].endswith("fit both with one table")
    policy(LINK)
    assert sum(policy(mix)) == pytest.approx(1)


@pytest.mark.tries("not to 1; divide each by {}")
@pytest.mark.parametrize("command", ["mix", "link"])
def test_shares_that_are_divided_sum_to_one(command):
    policy(DEMAND)
    commands = {
        "mix": "mix demand.json:{0!r} demand.json:{1!r} --out=p.json",
        "link": f"{without(LINK, 'deadline_s')} --deadline_s=0.1:{{0!r}},0.3:{{1!r}}",
    }
    with refused() as said:
        policy(commands[command].format(0.5, 0.2))
    by = float(re.search("divide each by (.*)$", said[0])[1])
    assert sum(policy(commands[command].format(0.5 / by, 0.2 / by))) == pytest.approx(1)


@pytest.mark.tries(
    "(wanted 'format': {}); python -m accordion_jax.policy link (or demand) writes one",
    "no policy file at {}; python -m accordion_jax.policy link (or demand) writes one",
)
@pytest.mark.parametrize("command", [LINK, DEMAND])
@pytest.mark.parametrize("what", ["missing", "another file"])
def test_the_command_writes_a_policy_file(tmp_path, capsys, command, what):
    out = command.rpartition("--out=")[2]
    if what == "another file":
        (tmp_path / out).write_text('{"probabilities": [0.5, 0.5]}')
    ladder = make_ladder("coml", (1, 2))
    uses = (
        lambda: make_policy("file", ladder, {"path": out}),
        lambda: policy(f"mix {out} --out=mix.json"),
        lambda: policy(f"convergence run --under={out}"),
    )
    for use in uses:
        with refused((FileNotFoundError, ValueError)) as said:
            use()
        assert said[0].endswith("python -m accordion_jax.policy link (or demand) writes one")
    policy(command)
    for use in uses:
        use()
