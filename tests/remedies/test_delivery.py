"""What the endpoint, links and runtimes tell people to do helps."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import socket

import httpx
import numpy as np
import pytest
from absl import app

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.openapi import MAX_BODY_BYTES, MAX_STREAM_SEGMENTS
from accordion_jax.delivery.endpoint.server import _listen
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import (
    DeliveryError,
    ModelError,
    TransportError,
)
from accordion_jax.delivery.links.link import slowed
from accordion_jax.delivery.links.picture import check_that_pictures_can_be_drawn
from accordion_jax.delivery.planner import Requirements
from accordion_jax.delivery.runtimes import examples
from tests.commands import call_main
from tests.delivery.forests import write_forest
from tests.delivery.live import request, serving
from tests.delivery.resnets import write_resnet
from tests.delivery.runtimes.test_examples import FEATURES, ROWS
from tests.delivery.servers import serving as serving_bundle
from tests.delivery.toys import make_parts
from tests.remedies.refusals import refused


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.tries(
    "ask for at most {} at once",
    "segments has a digest twice; ask for each once",
    "send only the digests of this model's segments",
    "{} is null; leave it out instead",
    "{} is not possible here; use {}",
)
def test_requests_that_are_made_as_the_endpoint_says(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    manifest = read_manifest(bundle)
    model, digests = f"/v1/models/{bundle.name}", [each.sha256 for each in manifest.segments]

    def error(path, **kwargs):
        response, body = request(url, path, **kwargs)
        assert response.status >= 400
        return json.loads(body)["error"]

    def succeeds(path, **kwargs):
        return request(url, path, **kwargs)[0].status in (200, 206)

    with serving(make_app(BundleStore(str(tmp_path)))) as url:
        many = [f"{each:064x}" for each in range(MAX_STREAM_SEGMENTS + 1)]
        said = error(f"{model}/stream?segments={','.join(many)}")
        assert int(re.search(r"ask for at most (\d+) at once", said)[1]) >= len(digests)
        assert error(f"{model}/stream?segments={digests[0]},{digests[0]}").endswith("each once")
        assert succeeds(f"{model}/stream?segments={','.join(digests)}")
        said = error(f"{model}/plan", method="POST", body=b" " * (MAX_BODY_BYTES + 1))
        assert said.endswith("send only the digests of this model's segments")
        assert succeeds(f"{model}/plan", method="POST", body=json.dumps({"held": digests}))
        null = {"requirements": {"max_bytes": None}}
        assert error(f"{model}/plan", method="POST", body=json.dumps(null)).endswith("out instead")
        left_out = {"requirements": {}}
        assert succeeds(f"{model}/plan", method="POST", body=json.dumps(left_out))
        for path, method, body in ((f"{model}/plan", "GET", None), (model, "DELETE", None)):
            said = error(path, method=method, body=body)
            for use in re.search("not possible here; use (.*)$", said)[1].split(", "):
                body = json.dumps(left_out) if use == "POST" else None
                assert succeeds(path, method=use, body=body)


@pytest.mark.tries("choose another port or host")
def test_another_port_is_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with refused(DeliveryError) as said:
            _listen("127.0.0.1", port)
        assert said[0].endswith("choose another port or host")
        _listen("127.0.0.1", 0).close()
        with contextlib.suppress(DeliveryError):  # not every system has a second address
            _listen("127.0.0.2", port).close()


@pytest.mark.tries(
    "{} is missing; copy the bundle there again",
    "{} is no regular file of its folder; copy the bundle again",
    "its manifest says {}; copy",
)
@pytest.mark.parametrize("what", ["segment removed", "segment cut", "link", "link for a manifest"])
def test_the_endpoint_serves_a_bundle_that_was_copied_again(tmp_path, what):
    folder, outside = tmp_path / "bundles", tmp_path / "outside"
    bundle = write_bundle(folder, **make_parts())
    shutil.copytree(bundle, tmp_path / "copy")
    path = segment_path(bundle, read_manifest(bundle).segments[1].sha256)
    if "manifest" in what:
        path = bundle / "manifest.json"
    if what == "segment cut":
        cut(path)
    else:
        path.rename(outside)
    if "link" in what:
        path.symlink_to(outside)
    store = BundleStore(str(folder), refresh_s=0.0)

    def said():
        store.models()
        return " ".join([*store.broken().values(), *store.skipped().values()])

    assert re.search("copy the bundle (there )?again", said())
    shutil.rmtree(bundle)
    shutil.copytree(tmp_path / "copy", bundle)
    store = BundleStore(str(folder), refresh_s=0.0)
    assert said() == ""
    assert [model.manifest.model_id for model in store.models()] == [bundle.name]


@pytest.mark.tries("give rate_bps or trace, not both", "give --link_bps or --trace, not both")
def test_one_link(tmp_path):
    (tmp_path / "link.csv").write_text("time_s,downlink_mbps\n0,1\n1,4\n")
    inner = httpx.MockTransport(lambda request: httpx.Response(200))
    with refused() as said:
        slowed(inner, rate_bps=1e6, trace=str(tmp_path / "link.csv"))
    assert said[0].startswith("give rate_bps or trace, not both")
    assert slowed(inner, rate_bps=1e6) is not inner
    assert slowed(inner, trace=str(tmp_path / "link.csv")) is not inner
    with refused(app.UsageError) as said:
        call_main("fetch", "http://127.0.0.1:1", "--link_bps=1e6", "--trace=link.csv")
    assert said[0].startswith("give --link_bps or --trace, not both")
    for flag in ("--link_bps=1e6", f"--trace={tmp_path / 'link.csv'}"):
        with pytest.raises(TransportError):  # it goes on to ask, and nobody is there
            call_main(
                *("fetch", "http://127.0.0.1:1", flag, f"--cache={tmp_path / 'c'}"),
                "--deadline_s=0.1",
            )


@pytest.mark.tries("give one URL; got", "give --upgrade or --step_down, not both")
def test_one_url_and_one_way(toy_bundle, tmp_path, capsys):
    cache = f"--cache={tmp_path / 'cache'}"
    with serving_bundle(toy_bundle) as (url, _):
        for given in ([], [url, url]):
            with refused(app.UsageError) as said:
                call_main("fetch", *given, cache)
            assert said[0].startswith("give one URL")
        with refused(app.UsageError) as said:
            call_main("fetch", url, cache, "--upgrade", "--step_down=1")
        assert said[0] == "give --upgrade or --step_down, not both"
        for flag in ("--upgrade", "--step_down=1"):
            call_main("fetch", url, cache, flag)
    assert "in use       toy-1" in capsys.readouterr().out


@pytest.mark.tries(
    "give the same command again, with more time or bytes",
    "What has arrived is kept and in use; the same command goes on from there",
)
def test_the_same_fetch_again(toy_bundle, tmp_path, capsys):
    cache = f"--cache={tmp_path / 'cache'}"
    served = tmp_path / toy_bundle.name
    shutil.copytree(toy_bundle, served)
    path = segment_path(served, read_manifest(served).segments[3].sha256)
    with serving_bundle(served) as (url, _):
        with refused(Exception) as said:
            call_main("fetch", url, cache, "--max_bytes=10")
        assert "give the same command again, with more time or bytes" in said[0]
        call_main("fetch", url, cache, "--max_bytes=20000")
        assert "in use       toy-0" in capsys.readouterr().out
        path.rename(tmp_path / "away")
        with refused(Exception) as said:
            call_main("fetch", url, cache, "--upgrade")
        assert said[0].endswith("the same command goes on from there")
        (tmp_path / "away").rename(path)
        capsys.readouterr()
        call_main("fetch", url, cache, "--upgrade")
        out = capsys.readouterr().out
        assert "in use       toy-5" in out
        assert "0 bytes of the full model are missing" in out
        sent = re.search(r"transferred  ([\d,]+) bytes", out)[1].replace(",", "")
        assert int(sent) < read_manifest(served).size_bytes


@pytest.mark.tries(
    "one before stays in use, and the same command goes on from there",
    "takes over once its first configuration",
)
def test_the_same_command_fetches_the_newer_version(tmp_path, capsys):
    folder, cache = tmp_path / "bundles", f"--cache={tmp_path / 'cache'}"
    old = write_bundle(folder, **make_parts())
    with serving(make_app(BundleStore(str(folder), refresh_s=0.0))) as url:
        call_main("fetch", url, cache, "--upgrade")
        new = write_bundle(folder, **make_parts(seed=1), follows=old.name)
        path = segment_path(new, read_manifest(new).segments[0].sha256)
        path.rename(tmp_path / "away")
        with refused(Exception) as said:
            call_main("fetch", url, cache, "--upgrade")
        assert said[0].endswith("the same command goes on from there")
        assert "; give the same command again" not in said[0]
        shown = " ".join(capsys.readouterr().out.split())
        assert f"newer {new.name[:16]} takes over" in shown
        assert "give the same command again" in shown
        (tmp_path / "away").rename(path)
        call_main("fetch", url, cache, "--upgrade")
    assert new.name[:16] in capsys.readouterr().out


@pytest.mark.tries("must be finite, at most {}; leave it out")
def test_a_requirement_that_is_left_out():
    with refused() as said:
        Requirements(throughput_bps=float("inf"))
    assert said[0].endswith("leave it out")
    assert Requirements().throughput_bps is None


def extras():
    return set(importlib.metadata.metadata("accordion_jax").get_all("Provides-Extra"))


@pytest.mark.tries("install what it needs: pip install", "is not installed: pip install matplotlib")
def test_what_is_to_be_installed_is_there_to_be(tmp_path, monkeypatch):
    manifest = read_manifest(write_resnet(tmp_path)[0])
    entry = runtimes.RUNTIMES["networks"]
    missing = entry._replace(path="a_package_that_is_not_there.Model")
    monkeypatch.setitem(runtimes.RUNTIMES, "networks", missing)
    with refused(ModelError) as said:
        runtimes.find(manifest)
    name, extra = re.search(r"pip install '(\w+)\[(.+)\]'$", said[0]).groups()
    # tests/test_extras.py installs each extra alone and runs what it is for.
    assert importlib.metadata.distribution(name)
    assert extra in extras()
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with refused(DeliveryError) as said:
        check_that_pictures_can_be_drawn()
    (package,) = re.findall(r"pip install (\S+)$", said[0])
    monkeypatch.undo()
    assert importlib.import_module(package)
    assert any(each.startswith(package) for each in importlib.metadata.requires("accordion_jax"))
    check_that_pictures_can_be_drawn()


def changed(manifest, **model):
    """The same bundle of another description."""
    return Manifest.create(
        segments=manifest.segments,
        ladder=manifest.ladder,
        model={**manifest.model, **model},
        table=manifest.table,
        provenance=manifest.provenance,
    )


@pytest.mark.tries(
    "Upgrade accordion_jax, or fetch a model for one of",
    "Write the bundle for another runtime",
    "Upgrade accordion_jax, or write the bundle again",
)
def test_a_model_that_is_for_one_of_the_runtimes(tmp_path):
    bundle, *_ = write_forest(tmp_path)
    manifest = read_manifest(bundle)
    with refused(ModelError) as said:
        runtimes.make(changed(manifest, runtime="abacus"))
    known = re.search("known: (.*?)\\.", said[0])[1].split(", ")
    assert manifest.model["runtime"] in known
    assert runtimes.make(manifest)
    images = read_manifest(write_resnet(tmp_path / "net")[0]).model["input"]
    with refused(ModelError) as said:
        runtimes.make(changed(manifest, input=images))
    assert said[0].endswith("Write the bundle for another runtime")
    assert runtimes.make(read_manifest(write_resnet(tmp_path / "net")[0]))
    with refused(ModelError) as said:
        runtimes.make(changed(manifest, input={"kind": "smells"}))
    assert said[0].endswith("Upgrade accordion_jax, or write the bundle again")
    assert runtimes.make(read_manifest(write_forest(tmp_path)[0]))


@pytest.mark.tries("its segments do not make the network that the manifest describes")
def test_a_network_whose_bundle_is_written_again(tmp_path):
    bundle, *_ = write_resnet(tmp_path)
    manifest = read_manifest(bundle)

    def compiled(manifest):
        model = runtimes.make(manifest)
        base = manifest.segments[0]
        content = segment_path(bundle, base.sha256).read_bytes()
        return model.compile(manifest.ladder[0], [model.load(base.name, content)], 1)

    arguments = manifest.model["arguments"]
    wrong = changed(manifest, arguments=arguments | {"num_classes": 7})
    with refused(ModelError) as said:
        compiled(wrong)
    assert said[0].endswith("Write the bundle again")
    write_resnet(tmp_path)
    assert compiled(read_manifest(bundle))


@pytest.mark.tries(
    "bytes that are drawn at random: give a file of some",
    "Write it again: numpy.savez(FILE, {})",
    "Take the one column: {}[:, 0]",
    "Convert them: {}.astype('int64')",
)
def test_examples_that_are_given_as_it_says(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK cut")
    with refused() as said:
        examples.read_examples(str(path), FEATURES)
    call = re.search(r"numpy\.savez\(FILE, (.*)\)$", said[0])[1]
    names = re.findall(r"(\w+)=\.\.\.", call)
    labels = np.zeros((len(ROWS), 1))
    for advice in ("Convert them: ", "Take the one column: ", None):
        np.savez(path, **dict(zip(names, (ROWS, labels), strict=True)))
        if advice is None:
            inputs, targets = examples.read_examples(str(path), FEATURES)
            break
        with refused() as said:
            examples.read_examples(str(path), FEATURES)
        code = said[0].partition(advice)[2]
        labels = eval(code, {"labels": labels})
    assert (len(inputs), targets.shape) == (len(ROWS), (len(ROWS),))
    monkeypatch.setattr(examples, "_MOST_RANDOM_BYTES", 8)
    with refused() as said:
        examples.random_examples(FEATURES, 100)
    assert said[0].endswith("give a file of some")
    assert len(examples.read_examples(str(path), FEATURES)[0]) == len(ROWS)


@pytest.mark.tries("the manifest does not say how many classes there are; give --classes")
def test_a_replay_that_is_told_the_classes(toy_bundle, tmp_path, capsys):
    (tmp_path / "link.csv").write_text("time_s,downlink_mbps\n0,1\n1,4\n2,2\n")
    given = [f"--bundle={toy_bundle}", f"--traces={tmp_path / 'link.csv'}", "--starts=2"]
    out = f"--out={tmp_path / 'out'}"
    with refused(app.UsageError) as said:
        call_main("replay", *given, out)
    (flag,) = re.findall(r"give (--\w+)$", said[0])
    call_main("replay", *given, out, f"{flag}=10")
    assert list((tmp_path / "out").glob("*.csv"))
