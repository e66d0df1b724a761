"""The fetch command as a person runs it, against the real endpoint."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from tests.commands import command_alone
from tests.delivery.endpoints import running_endpoint
from tests.delivery.resnets import make_images, write_resnet


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL of an endpoint, manifest of its one model)."""
    bundle, _, _ = write_resnet(tmp_path_factory.mktemp("bundles"))
    with running_endpoint(bundle.parent) as url:
        yield url, read_manifest(bundle)


@pytest.fixture
def fetch(tmp_path, served):
    def run(*flags, url=served[0], code=0):
        command = [sys.executable, "-m", "accordion_jax.fetch", url, f"--cache={tmp_path / 'c'}"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        assert code in (None, done.returncode), done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith("error: ")
        return done

    return run


def received_bytes(done):
    return int(re.search(r"transferred  ([\d,]+) bytes", done.stdout)[1].replace(",", ""))


def test_fetch_upgrade_and_step_down(served, fetch):
    _, manifest = served
    sizes = [segment.size_bytes for segment in manifest.segments]
    # 5 kB and 20 kB take 0.4 s; the third, of 75 kB, would be late however fast this machine is.
    first = fetch("--link_bps=5e5", "--deadline_s=1.2", code=None)
    assert received_bytes(first) <= sum(sizes[:2])
    # What a busy machine did not get in time comes now.
    rest = fetch(f"--max_bytes={sum(sizes[:2]) - received_bytes(first)}")
    assert "in use       coml-1: 1 of 3 blocks" in rest.stdout
    assert received_bytes(first) + received_bytes(rest) == sum(sizes[:2])
    assert "in use coml-0, depth 0, 32 bits, expected error 0.9" in first.stderr + rest.stderr
    upgraded = fetch("--upgrade")
    assert "in use       coml-3: 3 of 3 blocks, 32 bits, 100 % of the bytes" in upgraded.stdout
    assert f"transferred  {sum(sizes[2:]):,} bytes" in upgraded.stdout
    assert f"cached       {sum(sizes[:2]):,} bytes before; 0 bytes" in upgraded.stdout
    # No network from here on.
    down = fetch("--step_down=2", url=served[0])
    assert "in use       coml-2: 2 of 3 blocks" in down.stdout
    assert "transferred  0 bytes of segments; 0 of manifest" in down.stdout


def test_predictions_while_it_arrives(served, fetch, tmp_path):
    np.savez(tmp_path / "x.npz", images=make_images(30), labels=np.zeros(30, np.int64))
    done = fetch(f"--predict={tmp_path / 'x.npz'}", "--max_error=0.6")
    assert "first        prediction" in done.stdout
    assert "predictions  30 by coml-2" in done.stdout
    assert "measured     error" in done.stdout
    np.save(tmp_path / "x.npy", make_images(3))
    done = fetch(f"--predict={tmp_path / 'x.npy'}", "--step_down=0")
    assert "predictions  3 by coml-0" in done.stdout


def test_what_a_person_may_get_wrong(served, fetch, tmp_path):
    assert "give one URL" in fetch("extra", code=1).stderr
    both = fetch("--upgrade", "--step_down=1", code=1)
    assert "error: give --upgrade or --step_down, not both" in both.stderr
    nothing = fetch("--step_down=1", url="http://127.0.0.1:9", code=1)
    assert "error: no manifest from http://127.0.0.1:9 is kept" in nothing.stderr
    assert (
        "error: url='example.org' must start with http" in fetch(url="example.org", code=1).stderr
    )
    missing = fetch(f"--trace={tmp_path / 'none.csv'}", code=1)
    assert "No such file" in missing.stderr
    assert "give --link_bps or --trace" in fetch("--link_bps=1", "--trace=x", code=1).stderr
    limited = fetch("--cache_limit_bytes=1e4", code=1)
    assert "cache's limit is 10000" in limited.stderr
    assert pathlib.Path(tmp_path / "c").is_dir()
    late = fetch("--link_bps=1e5", "--deadline_s=0.05", code=1)
    assert "error: not even the base of the model is here" in late.stderr
    assert "nothing: not even the base is complete yet" in late.stdout


def test_a_terminal_of_another_encoding_gets_all_that_it_can_show(fetch, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = fetch("--predict=random")
    assert "predictions  16 by coml-3" in done.stdout
    assert done.stdout.rstrip().endswith("...")


def test_a_cache_that_cannot_be_is_refused_in_words(served, fetch, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/inner"):
        line = fetch(f"--cache={tmp_path / folder}", code=1).stderr
        assert "cannot be used as the folder of the cache" in line
        assert line.count("\n") == 1
    assert "cannot be used" in fetch("--cache=~nobody-of-this-name/x", code=1).stderr
    assert "cannot be used" in fetch("--cache=/proc/nothing/here", code=1).stderr


def test_an_upgrade_that_stops_short_is_a_failure(tmp_path, fetch):
    bundle, _, _ = write_resnet(tmp_path / "bundles")
    segments = read_manifest(bundle).segments
    segment_path(bundle, segments[2].sha256).unlink()
    with running_endpoint(bundle.parent) as url:
        done = fetch("--upgrade", url=url, code=1)
    assert "in use       coml-1" in done.stdout
    assert "error: the full model is not complete" in done.stderr


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--mbps=1", "--mbps is now --link_bps (in bits a second)"),
        ("--expect_mbps=1", "--expect_mbps is now --expect_bps (in bits a second)"),
        ("--deadline_ms=300", "--deadline_ms is now --deadline_s (in seconds)"),
        ("--latency_ms=30", "--latency_ms is now --latency_s (in seconds)"),
        ("--cache_limit_mb=1", "--cache_limit_mb is now --cache_limit_bytes (in bytes)"),
        ("--deadline_s=soon", "flag --deadline_s=soon"),
        ("--deadline_s=nan", "nan is not finite"),
        ("--max_error=1.5", "flag --max_error=1.5"),
        ("--confidence=95", "flag --confidence=95"),
        ("--max_bytes=1.5", "1.5 is not a whole number"),
        ("--no_such_flag", "Unknown command line flag 'no_such_flag'"),
    ],
)
def test_a_flag_that_cannot_be_taken_is_one_line(flag, said, capsys):
    with command_alone("fetch") as fetch, pytest.raises(SystemExit) as stopped:
        fetch.run(["fetch", "http://127.0.0.1:9", flag])
    assert stopped.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
