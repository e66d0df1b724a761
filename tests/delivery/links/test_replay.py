import csv
import os
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.links.picture import draw_picture, summarise, write_csv
from accordion_jax.delivery.links.replay import (
    Method,
    accordion,
    draw_starts,
    log_times,
    replay,
    whole,
)
from accordion_jax.delivery.links.traces import Trace, constant, find_traces, read_trace
from tests.delivery.resnets import make_images, write_resnet
from tests.delivery.toys import make_manifest

SIZES = [1000, 2000, 3000]
ERRORS = [0.6, 0.3, 0.2]


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def manifest():
    return make_manifest(SIZES, ERRORS)


def test_on_a_constant_link_each_model_comes_when_its_last_byte_does(manifest):
    methods = [accordion(manifest, overhead_bytes=500), whole("full", 6000, 0.2)]
    times = np.array([0.01, 0.0619, 0.0621, 0.0779, 0.0781, 0.0979, 0.0981, 0.1019, 0.1021])
    sent, full = replay(
        methods,
        [constant(rate_bps=1e6)],
        times,
        chance_error=0.9,
        starts=7,
        seed=0,
        round_trip_s=0.05,
    )
    # A round trip for each, and 12, 28, 52 ms of bytes, or 48 ms.
    expected = [0.9, 0.9, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3, 0.2]
    np.testing.assert_allclose(sent.mean, expected)
    np.testing.assert_allclose(full.mean, [0.9] * 6 + [0.2] * 3)
    np.testing.assert_allclose(sent.quantiles, np.broadcast_to(expected, (3, 9)))
    np.testing.assert_allclose(sent.first_s, 0.062)
    np.testing.assert_allclose(sent.last_s, 0.102)
    np.testing.assert_allclose(full.first_s, 0.098)


def test_a_configuration_of_several_segments_waits_for_the_last(manifest):
    sparse = make_manifest([1000, 2000, 3000, 10], [0.5, 0.1], ends=[1, 4])
    assert accordion(sparse).sizes_bytes == (1000, 6010)
    assert accordion(manifest).sizes_bytes == (1000, 3000, 6000)
    assert accordion(manifest, 7).errors == (0.6, 0.3, 0.2)


def test_quantiles_and_mean_are_over_requests_and_traces_count_alike():
    fast, dead = constant(rate_bps=8e6), Trace("dead", (0.0,), (0.0,), 5000.0)
    method = whole("m", 1_000_000, 0.1)
    times = np.array([0.5, 2.0])
    (curve,) = replay([method], [fast, dead], times, chance_error=0.9, starts=10, seed=0)
    np.testing.assert_allclose(curve.mean, [0.9, 0.5])
    np.testing.assert_allclose(curve.quantiles[:, 1], [0.1, 0.1, 0.9])
    assert np.isinf(curve.first_s).sum() == 10


def test_starts_cover_the_trace_evenly():
    trace = Trace("t", (0.0,), (1.0,), 100.0)
    starts = draw_starts(trace, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(np.floor(starts / 2), np.arange(50))


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path, manifest):
    rng = np.random.default_rng(0)
    trace = Trace("t", tuple(range(60)), tuple(rng.uniform(0, 1e6, 60)), 60.0)
    methods = [accordion(manifest), whole("full model", 6000, 0.2)]
    times = log_times(3.0, 40)

    def files(seed):
        curves = replay(methods, [trace], times, chance_error=0.9, starts=20, seed=seed)
        write_csv(tmp_path / "c.csv", times, {0.03: curves})
        draw_picture(tmp_path / "p.png", times, curves, title="t")
        text = summarise(times, curves, (0.1, 1.0))
        return (tmp_path / "c.csv").read_bytes(), (tmp_path / "p.png").read_bytes(), text

    assert files(0) == files(0)
    assert files(0)[0] != files(1)[0]
    rows = read_rows(tmp_path / "c.csv")
    assert len(rows) == 2 * 40
    assert {row["method"] for row in rows} == {"Accordion", "full model"}
    assert all(float(r["q10"]) <= float(r["median"]) <= float(r["q90"]) for r in rows)
    assert "error at 0.1 s" in files(0)[2]


def test_accordion_is_never_worse_than_the_whole_model_without_overhead(manifest):
    rng = np.random.default_rng(1)
    traces = [
        Trace(str(i), tuple(range(30)), tuple(rng.choice([0, 1e5, 1e6], 30)), 30.0)
        for i in range(5)
    ]
    sent = accordion(manifest)
    methods = [sent, Method("full", (6000,), (0.2,), round_trips=sent.round_trips)]
    curves = replay(methods, traces, log_times(5.0), chance_error=0.9, starts=40, seed=0)
    assert np.all(curves[0].mean <= curves[1].mean + 1e-12)
    assert np.all(curves[0].quantiles <= curves[1].quantiles)
    np.testing.assert_array_equal(curves[0].last_s, curves[1].last_s)
    assert np.all(np.diff(curves[0].mean) <= 1e-12)


def test_nothing_to_replay_is_an_error(manifest):
    with pytest.raises(ValueError, match="0 traces with starts=3"):
        replay([accordion(manifest)], [], log_times(1.0), chance_error=0.9, starts=3, seed=0)


def test_measured_traces(manifest):
    folder = os.environ.get("ACCORDION_TRACES")
    if not folder:
        pytest.skip("ACCORDION_TRACES names no folder of measured traces")
    traces = [read_trace(path) for path in find_traces(folder)]
    sizes = tuple(range(130_000, 7_200_000, 130_000))
    method = Method("55", sizes, tuple(np.linspace(0.9, 0.07, len(sizes))))
    (curve,) = replay([method], traces, log_times(60.0), chance_error=0.9, starts=100, seed=0)
    assert len(curve.first_s) == 100 * len(traces)
    assert 0.0699 <= curve.mean[-1] < 0.1 < 0.8 < curve.mean[0] <= 0.9001


def test_the_command(tmp_path):
    bundle, _, _ = write_resnet(tmp_path / "bundles")
    manifest = read_manifest(bundle)
    (tmp_path / "traces").mkdir()
    for name, rate in (("a", 5), ("b", 1)):
        rows = "".join(f"{second},{rate * (second % 3)}\n" for second in range(30))
        (tmp_path / "traces" / f"{name}.csv").write_text(f"time_s,downlink_mbps\n{rows}")
    images = make_images(40)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(40, np.int64))
    manifest.table.write(tmp_path / "small")
    command = [
        sys.executable,
        "-m",
        "accordion_jax.replay",
        f"--bundle={bundle}",
        f"--traces={tmp_path / 'traces' / '*.csv'}",
        f"--out={tmp_path / 'out'}",
        f"--small={tmp_path / 'small'}=small one",
        "--starts=5",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error assumed" in done.stdout
    measured = subprocess.run(
        [*command, f"--data={tmp_path / 'data.npz'}"], capture_output=True, text=True, check=False
    )
    assert measured.returncode == 0, measured.stderr
    assert "measured on 40 images" in measured.stdout
    assert "error assumed" not in measured.stdout
    rows = read_rows(tmp_path / "out" / "replay.csv")
    assert {row["method"] for row in rows} == {
        "Accordion",
        "full model",
        "8 bits, whole",
        "small one",
    }
    assert (tmp_path / "out" / "replay.png").stat().st_size > 10_000
