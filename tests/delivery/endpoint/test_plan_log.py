"""The log of plans: what is in a line, what is not, and that no request waits for it or fails."""

import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.plan_log import (
    PlanLog,
    coarsened,
    find_plan_logs,
    read_plan_log,
)
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.planner import MOST, Requirements
from accordion_jax.depth.fitting import Demand
from tests.delivery.live import request, serving
from tests.delivery.toys import make_parts

MODEL = "a" * 64


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_these_keys_and_coarse_numbers_and_nothing_else(tmp_path):
    bundle = write_bundle(tmp_path / "bundles", **make_parts())
    manifest = read_manifest(bundle)
    log = PlanLog(tmp_path / "plans.jsonl")
    body = {
        "requirements": {"throughput_bps": 1234567.8, "deadline_s": 0.2987, "max_macs": 987654},
        "held": [manifest.segments[0].sha256],
    }
    with serving(make_app(BundleStore(str(bundle.parent)), plan_log=log)) as url:
        response, data = request(
            url,
            "/v1/models/latest/plan",
            method="POST",
            body=json.dumps(body).encode(),
            headers={"User-Agent": "device-4711", "Authorization": "Bearer secret"},
        )
        assert response.status == 200
        for refused in (b"{", b'{"requirements": {"max_error": 7}}'):
            request(url, "/v1/models/latest/plan", method="POST", body=refused)
        metrics = request(url, "/metrics")[1].decode()
    assert "accordion_plan_log_lost 0.0" in metrics
    # The application's end wrote what was waiting.
    [line] = lines_of(tmp_path / "plans.jsonl")
    assert line == {
        "plan": 1,
        "model": manifest.model_id[:16],
        "requirements": {"throughput_bps": 1200000, "deadline_s": 0.3, "max_macs": 990000},
        "configuration": json.loads(data)["configuration"],
    }
    text = (tmp_path / "plans.jsonl").read_text()
    for known in ("4711", "secret", "127.0.0.1", manifest.segments[0].sha256, "1234567", "2987"):
        assert known not in text


def test_there_is_no_log_unless_one_is_asked_for(tmp_path):
    bundle = write_bundle(tmp_path / "bundles", **make_parts())
    with serving(make_app(BundleStore(str(bundle.parent)))) as url:
        request(url, "/v1/models/latest/plan", method="POST", body=b"{}")
        assert "plan_log" not in request(url, "/metrics")[1].decode()
    assert [path.name for path in tmp_path.iterdir()] == ["bundles"]


numbers = st.floats(0, MOST)
requirements = st.builds(
    Requirements,
    max_bytes=st.none() | st.integers(0, MOST),
    deadline_s=st.none() | numbers,
    throughput_bps=numbers,
    max_error=st.none() | st.floats(0, 1),
    max_macs=st.none() | st.integers(0, MOST),
    confidence=st.none() | st.floats(0.5, 1 - 1e-12),
)


@given(requirements)
def test_what_is_logged_is_coarse_and_can_be_read_again(asked):
    coarse = coarsened(asked)
    assert coarse.keys() == asked.to_dict().keys()
    again = Requirements.from_dict(json.loads(json.dumps(coarse)))
    for name, value in coarse.items():
        exact = getattr(asked, name)
        if name == "confidence":
            value, exact = 1 - value, 1 - exact
            assert value == pytest.approx(exact, rel=0.06, abs=1e-14)
            continue
        assert value == float(f"{value:.1e}"), "two significant digits"
        assert value == pytest.approx(exact, rel=0.051)
        assert getattr(again, name) == value


def test_a_log_rotates_and_the_last_files_stay(tmp_path):
    log = PlanLog(tmp_path / "p.jsonl", max_bytes=1000, files=2)
    for _ in range(100):
        log.write(MODEL, Requirements(max_error=0.2), "toy-1")
    log.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["p.jsonl", "p.jsonl.1", "p.jsonl.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    found = read_plan_log(find_plan_logs(str(tmp_path / "p.jsonl*")))
    assert 10 < found.configurations["toy-1"] < 100
    assert log.lost == 0


def test_what_the_disk_does_not_take_is_counted_and_no_one_waits(tmp_path):
    log = PlanLog(tmp_path / "p.jsonl", waiting=3)
    log._file.acquire()  # as a disk that does not answer: the writer waits for this lock
    try:
        for _ in range(10):
            log.write(MODEL, Requirements(), None)
        assert 6 <= log.lost <= 7  # the writer may have taken one
    finally:
        log._file.release()
    log.close()
    assert len(lines_of(tmp_path / "p.jsonl")) + log.lost == 10


def test_a_disk_that_fails_fails_no_request(tmp_path, caplog, monkeypatch):
    log = PlanLog(tmp_path / "p.jsonl")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._file, "shouldRollover", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            log.write(MODEL, Requirements(), "toy-1")
        log.close()
    assert log.lost == 5
    assert sum("cannot be written" in each.message for each in caplog.records) == 1
    assert "No space left" in caplog.text


def test_a_file_that_cannot_be_opened_is_named_at_once(tmp_path):
    with pytest.raises(DeliveryError, match=r"cannot be written to .*nowhere.*No such file"):
        PlanLog(tmp_path / "nowhere" / "p.jsonl")


def line(model="m1", configuration="toy-1", **asked):
    return json.dumps(
        {"plan": 1, "model": model, "requirements": asked, "configuration": configuration}
    )


def test_a_log_becomes_demands(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        "\n".join(
            [
                line(max_error=0.2),
                line(max_error=0.2),
                line(deadline_s=0.3, throughput_bps=8e6, max_bytes=1e9),
                line(throughput_bps=8e6, configuration=None),
            ]
        )
    )
    found = read_plan_log([path])
    assert found.demands == {
        Demand(max_error=0.2): 2,
        Demand(max_bytes=300_000): 1,
        Demand(): 1,
    }
    assert found.configurations == {"toy-1": 3, None: 1}
    assert (found.foreign, found.first_foreign) == (0, "")


FOREIGN = [
    "",
    "not json",
    "[]",
    '{"plan": 1}',
    line(max_error=20),
    line(who="me"),
    line().replace('"plan": 1', '"plan": 2'),
    line()[:-1] + ', "address": "10.0.0.1"}',
    line(configuration=7),
    "[" * 900,
    line(configuration="x" * 5000),
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_foreign_line_is_counted_and_shown(tmp_path, foreign):
    path = tmp_path / "p.jsonl"
    path.write_text(f"{line(max_error=0.2)}\n{foreign}\n{line()}\n{line()}\n")
    found = read_plan_log([path])
    assert found.foreign == 1
    assert found.first_foreign.startswith(f"{path}, line 2: ")
    assert sum(found.requirements.values()) == 3


def test_what_is_no_log_is_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("GET / 200\n" * 5 + line())
    with pytest.raises(ValueError, match=r"has 5 lines that are not .*, and 1 that are; the first"):
        read_plan_log([path])
    path.write_text("")
    with pytest.raises(ValueError, match="has no lines"):
        read_plan_log([path])
    path.write_text(f"{line('m1')}\n{line('m2')}\n{line('m2', max_error=0.1)}\n")
    with pytest.raises(ValueError, match=r"choose one with --model: m2 \(2\), m1 \(1\)"):
        read_plan_log([path])
    assert sum(read_plan_log([path], "m2").requirements.values()) == 2
    with pytest.raises(ValueError, match="has no plans of model 'm3'"):
        read_plan_log([path], "m3")
    with pytest.raises(FileNotFoundError, match="no log at"):
        find_plan_logs(os.fspath(tmp_path / "q*"))
