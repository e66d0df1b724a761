"""What signing and pinning tell people to do helps."""

import configparser
import errno
import json
import os
import re
import shlex
import shutil
import sys

import pytest
from absl import app

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust import ed25519
from accordion_jax.delivery.trust.documents import RELEASE_NAME, TrustFile
from accordion_jax.delivery.trust.pins import Pins
from tests.commands import ROOT, call_main
from tests.delivery.checks import in_use
from tests.delivery.live import serving
from tests.delivery.signing import DAY, NOW, Line, offer, release_of, trust, write_release
from tests.delivery.toys import make_parts
from tests.remedies.refusals import refused

__all__ = ["make_device", "trust"]

from tests.delivery.conftest import make_device

URL = "http://here"
SIGN = ("--trust=trust.json", "--keys=a.pem")


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unsigned")
    old = write_bundle(folder, **make_parts(blocks=1))
    return old, write_bundle(folder, **make_parts(blocks=1, seed=1), follows=old.name)


@pytest.fixture
def bundles(unsigned, tmp_path):
    return [shutil.copytree(each, tmp_path / "bundles" / each.name) for each in unsigned]


@pytest.fixture
def line(tmp_path):
    return Line.start(tmp_path)


@pytest.fixture
def started(trust):
    """The command, with the key and the trust file of a line."""
    trust("key", "a.pem")
    trust("create", "--line=toy", "--keys=a.pem", "--out=trust.json")
    return trust


@pytest.fixture
def site(tmp_path):
    """(URL of an endpoint, the folder of bundles that it serves)."""
    folder = tmp_path / "site"
    folder.mkdir()
    with serving(make_app(BundleStore(str(folder), refresh_s=0))) as url:
        yield url, folder


@pytest.fixture
def start(make_device, site):
    """Makes a device as a new process would, and connects it."""

    def start(now=NOW, *, offline=False, url=site[0], **kwargs):
        device = make_device(url, **kwargs)
        device.pins.now = lambda: now
        device.connect(offline=offline)
        return device

    return start


def has(device, bundle):
    """Whether a device gets this model, and no word of complaint."""
    device.upgrade()
    is_it = (device.manifest.model_id, in_use(device)) == (bundle.name, "toy-1")
    problems = device.outcome().problems
    device.close()
    return is_it and problems == ()


@pytest.mark.tries("one file to write the private key to", "name another file for the key")
def test_a_key_in_a_file_of_its_own(trust, tmp_path):
    with refused(app.UsageError) as said:
        trust("key")
    assert said[0] == "key takes one file to write the private key to; got []"
    trust("key", "a.pem")
    (tmp_path / "a.pem").unlink()
    with refused(FileExistsError) as said:
        trust("key", "a.pem")
    assert said[0].endswith("name another file for the key")
    public = trust("key", "b.pem").split()[-1]
    assert ed25519.public_of(ed25519.read_private("b.pem")) == public


@pytest.mark.tries(
    "is encrypted; give its passphrase (--passphrase_env or --passphrase_file)",
    "give --passphrase_file or --passphrase_env, not both",
)
def test_one_passphrase_given_in_one_way(trust, tmp_path, monkeypatch):
    monkeypatch.setenv("WORD", "correct horse")
    (tmp_path / "word").write_text("correct horse\n")
    ways = ("--passphrase_env=WORD", "--passphrase_file=word")
    create = ("create", "--line=toy", "--keys=a.pem", "--out=trust.json")
    with refused(app.UsageError) as said:
        trust("key", "a.pem", *ways)
    assert re.findall(r"--\w+", said[0]) == ["--passphrase_file", "--passphrase_env"]
    trust("key", "a.pem", ways[0])
    with refused(TrustError) as said:
        trust(*create)
    assert {f"--{name}" for name in re.findall(r"--(\w+)", said[0])} == {
        way.partition("=")[0] for way in ways
    }
    for way in ways:
        trust(*create, way)
        (tmp_path / "trust.json").unlink()


@pytest.mark.tries("install what that needs: pip install 'accordion_jax[trust]'")
def test_the_extra_for_signatures_is_there_to_be_installed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "cryptography", None)
        with refused(TrustError) as said:
            ed25519.make_pair(tmp_path / "a.pem")
    name, extra = re.search(r"pip install '(\w+)\[(.+)\]'$", said[0]).groups()
    # tests/test_extras.py installs it alone, and runs what it is for.
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["name"] == name
    assert "cryptography" in setup["options.extras_require"][extra].split()
    assert ed25519.make_pair(tmp_path / "a.pem")


@pytest.mark.tries("give --{}")
@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["create", "--keys=a.pem"], {"line": "new", "out": "new.json"}),
        (["rotate", "--keys=a.pem"], {"trust": "trust.json"}),
        (["unpin", "--cache=cache"], {"line": "toy"}),
    ],
)
def test_a_flag_that_is_given_as_it_says(started, tmp_path, arguments, values):
    Pins("cache").pin(TrustFile.read("trust.json"), URL)
    for _ in values:
        with refused(app.UsageError) as said:
            started(*arguments)
        name = re.fullmatch(r"give --(\w+)", said[0])[1]
        arguments = [*arguments, f"--{name}={values[name]}"]
    assert started(*arguments)


@pytest.mark.tries("{} is there already; rotate it, or name another file")
@pytest.mark.parametrize("how", ["rotated", "another file"])
def test_a_trust_file_is_rotated_or_another(started, how):
    create = ("create", "--line=toy", "--keys=b.pem")
    started("key", "b.pem")
    with refused(FileExistsError) as said:
        started(*create, "--out=trust.json")
    assert said[0].endswith("rotate it, or name another file")
    if how == "rotated":
        started("rotate", "--trust=trust.json", "--keys=b.pem", "--old_keys=a.pem")
        path = "trust.json"
    else:
        started(*create, "--out=other.json")
        path = "other.json"
    key = ed25519.public_of(ed25519.read_private("b.pem"))
    assert TrustFile.read(path).latest.keys == (key,)
    TrustFile.read(path).verify(path)


@pytest.mark.tries(
    "let them sign it with cosign before it is used",
    "more must sign it (the same command, with another key)",
)
def test_the_same_command_with_the_keys_of_others(trust, bundles):
    for name in "abc":
        trust("key", f"{name}.pem")
    said = trust(
        "create", "--line=toy", "--threshold=3", "--keys=a.pem", "--out=trust.json",
        "--public_keys=b.pem.pub,c.pem.pub",
    )  # fmt: skip
    sign = ("sign", bundles[0], "--trust=trust.json")
    for name in "bc":
        (command,) = re.findall(r"let them sign it with (\w+) before", said)
        with refused(TrustError):
            trust(*sign, "--keys=a.pem")
        said = trust(command, "--trust=trust.json", f"--keys={name}.pem")
    assert "missing" not in said
    for name, more in (("a", 2), ("b", 1)):
        assert f"; {more} more must sign it" in trust(*sign, f"--keys={name}.pem")
        with refused(TrustError):
            trust("verify", bundles[0], "--trust=trust.json")
    assert "more must sign" not in trust(*sign, "--keys=c.pem")
    assert "verified" in trust("verify", bundles[0], "--trust=trust.json")


@pytest.mark.tries("which is over; give a later one (--expires=DATE)")
@pytest.mark.parametrize("whence", ["given", "of the last time"])
def test_a_release_that_ends_later(started, bundles, whence):
    bundle, start = bundles[0], ["sign", bundles[0], *SIGN]
    if whence == "given":
        given = [*start, "--expires=2020-01-01"]
    else:
        key = ed25519.read_private("a.pem")
        line = Line([key], TrustFile.read("trust.json"))
        # As it was signed two days ago, for a day.
        line.sign(bundle, expires=NOW - DAY, now=NOW - 2 * DAY)
        given = start
    with refused(TrustError) as said:
        started(*given)
    (flag,) = re.findall(r"give a later one \((--\w+)=DATE\)$", said[0])
    started(*start, f"{flag}={(NOW + 9 * DAY).date()}")
    started("verify", bundle, "--trust=trust.json")


@pytest.mark.tries("demands an expiry; give one (--expires=DATE)")
def test_an_expiry_that_is_demanded(started, bundles):
    started("rotate", "--trust=trust.json", "--keys=a.pem", "--require_expiry")
    with refused(TrustError) as said:
        started("sign", bundles[0], *SIGN)
    (flag,) = re.findall(r"give one \((--\w+)=DATE\)$", said[0])
    started("sign", bundles[0], *SIGN, f"{flag}={(NOW + 9 * DAY).date()}")
    started("verify", bundles[0], "--trust=trust.json")


@pytest.mark.tries("the trust file expired at {}; rotate it first", "{} expired at {}; get a newer")
def test_a_trust_file_that_is_over_is_rotated(started, bundles):
    flags = ("--trust=over.json", "--keys=a.pem")
    started("create", "--line=toy", "--keys=a.pem", "--out=over.json", "--expires=2020-01-01")
    with refused(TrustError) as said:
        started("sign", bundles[0], *flags)
    (action,) = re.findall(r"; (\w+) it first$", said[0])
    pins = Pins("cache")
    with refused(TrustError) as said:
        pins.pin(TrustFile.read("over.json"), URL)
    assert said[0].endswith("; get a newer one")
    started(action, *flags, "--expires=9d")
    started("sign", bundles[0], *flags)
    started("verify", bundles[0], "--trust=over.json")
    pins.pin(TrustFile.read("over.json"), URL)
    assert pins.accept(release_of(bundles[0]).to_bytes(), bundles[0].name, URL).version == 1


@pytest.mark.tries("rotate it", "sign the bundle again, with a later expiry")
@pytest.mark.parametrize("what", ["trust file", "release"])
def test_whoever_answers_for_it_does_what_a_device_wants(bundles, line, site, start, what):
    _, folder = site
    if what == "trust file":
        line.rotate(line.keys, expires=NOW + DAY)
    offer(folder, line.sign(bundles[0], expires=NOW + DAY if what == "release" else None))
    assert has(start(trust=line.trust), bundles[0])
    later = NOW + 2 * DAY
    said = start(later).outcome().problems[-1]
    if what == "trust file":
        assert "whoever answers for it must rotate it; going on" in said
        line.rotate(line.keys, expires=later + DAY)
    else:
        assert "must sign the bundle again, with a later expiry; going on" in said
    offer(folder, line.sign(bundles[0], expires=later + DAY, now=later))
    assert has(start(later), bundles[0])


@pytest.mark.tries("1: upgrade accordion_jax, or {}", "make the file again with the same keys")
def test_a_trust_file_that_is_made_again(started, bundles):
    started("key", "b.pem")
    rotate = ("rotate", "--keys=b.pem", "--old_keys=a.pem", "--floor=2")
    started(*rotate, "--trust=trust.json")
    started("sign", bundles[0], "--trust=trust.json", "--keys=b.pem", "--release_version=2")
    pins = Pins("cache")
    pins.pin(TrustFile.read("trust.json"), URL)
    of_a_later_format("trust.json")
    with refused(TrustError) as said:
        started("show", "trust.json")
    assert said[0].endswith("make the file again with the same keys, in the same steps")
    started("create", "--line=toy", "--keys=a.pem", "--out=again.json")
    started(*rotate, "--trust=again.json")
    assert "verified" in started("verify", bundles[0], "--trust=again.json")
    # A device that had pinned the first one takes this for the same.
    pins.pin(TrustFile.read("again.json"), URL)
    assert pins.accept(release_of(bundles[0]).to_bytes(), bundles[0].name, URL).version == 2


def of_a_later_format(path):
    with open(path, "r+") as file:  # noqa: PTH123 - read, and then written
        document = json.load(file) | {"format_version": 2}
        file.seek(0)
        json.dump(document, file)
        file.truncate()


@pytest.mark.tries(
    "sign the bundle again (--release_version=N",
    "so which version this bundle was cannot be told: give it (--release_version=N), or delete",
)
def test_a_bundle_is_signed_again_as_what_it_was(started, bundles, site, start):
    _, folder = site
    bundle = bundles[0]
    started("sign", bundle, *SIGN, "--release_version=5")
    offer(folder, bundle)
    assert has(start(trust="trust.json"), bundle)
    of_a_later_format(bundle / RELEASE_NAME)
    offer(folder, bundle)
    with refused(TrustError) as said:
        started("verify", bundle, "--trust=trust.json")
    (flag,) = re.findall(r"or sign the bundle again \((--\w+)=N, as it was\)$", said[0])
    with refused(TrustError) as said:
        started("sign", bundle, *SIGN)
    assert flag in said[0].partition("give it")[2]
    started("sign", bundle, *SIGN, f"{flag}=5")
    offer(folder, bundle)
    assert has(start(), bundle)
    # What was never served can be signed as anything.
    (bundles[1] / RELEASE_NAME).write_bytes(b"{")
    with refused(TrustError) as said:
        started("sign", bundles[1], *SIGN)
    assert said[0].startswith(str(bundles[1] / RELEASE_NAME))
    (bundles[1] / RELEASE_NAME).unlink()
    assert "version 6 of line toy" in started("sign", bundles[1], *SIGN)


@pytest.mark.tries("{} is of model {}; sign this bundle again")
def test_a_bundle_with_the_release_of_another_is_signed_again(started, bundles, tmp_path):
    old, new = bundles
    started("sign", old, *SIGN)
    write_release(new, release_of(old))
    store = BundleStore(str(tmp_path / "bundles"), refresh_s=0)
    store.models()
    assert store.broken()[new.name].endswith("sign this bundle again")
    started("sign", new, *SIGN)
    store = BundleStore(str(tmp_path / "bundles"), refresh_s=0)
    assert store.latest("toy").manifest.model_id == new.name
    assert store.broken() == {}


@pytest.mark.tries(
    "(python -m accordion_jax.trust unpin --cache={} --line={}), and pin the other file (--trust"
)
def test_another_trust_file_is_pinned_after_the_first(bundles, line, site, start, tmp_path, capsys):
    _, folder = site
    offer(folder, line.sign(bundles[0]))
    cache = "a cache"
    assert has(start(trust=line.trust, folder=cache), bundles[0])
    other = Line.start(tmp_path)
    offer(folder, other.sign(bundles[1]))
    with refused(TrustError) as said:
        start(trust=other.trust, folder=cache)
    # The same words come where an endpoint offers it.
    device = start(folder=cache)
    command = re.search(r"\(python -m accordion_jax\.(.+?)\), and pin the other", said[0])[1]
    assert command in device.outcome().problems[-1]
    device.close()
    call_main(*shlex.split(command))
    assert capsys.readouterr().out == "unpinned  toy\n"
    assert has(start(trust=other.trust, folder=cache), bundles[1])


@pytest.mark.tries("free some room, or put the cache elsewhere")
@pytest.mark.parametrize("what", ["the first pin", "a version"])
def test_room_for_what_is_pinned(line, bundles, tmp_path, monkeypatch, what):
    data, name = release_of(line.sign(bundles[0])).to_bytes(), bundles[0].name
    pins = Pins(tmp_path / "cache")

    def act(pins):
        if what == "a version":
            return pins.accept(data, name, URL).version == 1
        pins.pin(line.trust, URL)
        return pins.is_pinned

    if what == "a version":
        pins.pin(line.trust, URL)
    with monkeypatch.context() as patch, refused(TrustError) as said:
        patch.setattr("pathlib.Path.write_bytes", full)
        act(pins)
    assert f"cannot be written ({os.strerror(errno.ENOSPC)})" in said[0]
    assert said[0].endswith("free some room, or put the cache elsewhere")
    if what == "a version":
        shutil.copytree(tmp_path / "cache", tmp_path / "elsewhere")
    assert act(Pins(tmp_path / "elsewhere"))
    assert act(pins)  # some was freed


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.tries("until it is back, or until {} is moved away and the key pinned again (--trust")
@pytest.mark.parametrize("how", ["back", "pinned again"])
def test_pins_that_are_damaged(bundles, line, site, start, tmp_path, how):
    _, folder = site
    offer(folder, line.sign(bundles[0]))
    assert has(start(trust=line.trust), bundles[0])
    offer(folder, line.sign(bundles[1]))
    path = tmp_path / "cache" / "trust" / "pins.json"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    device = start()
    assert device.manifest.model_id == bundles[0].name
    said = device.outcome().problems[0]
    device.close()
    if how == "back":
        path.write_bytes(content)
        assert has(start(), bundles[1])
    else:
        moved = re.search(r"until (\S+) is moved away", said)[1]
        shutil.move(moved, tmp_path / "away")
        assert has(start(trust=line.trust), bundles[1])


@pytest.mark.tries("pin the one that it must answer with (--trust=FILE)")
def test_a_url_with_a_line_of_its_own(bundles, line, site, start, tmp_path):
    url, folder = site
    offer(folder, line.sign(bundles[0]))
    pins = Pins(tmp_path / "cache")
    for number, each in enumerate((line, Line.start(tmp_path, name="other"))):
        pins.pin(each.trust, f"http://there/{number}")
    with refused(TrustError) as said:
        start()
    assert said[0].startswith(f"{url} has no pinned line of its own")
    assert said[0].endswith("pin the one that it must answer with (--trust=FILE)")
    assert has(start(trust=line.trust), bundles[0])


@pytest.mark.tries("but was fetched before a key was pinned; fetch once while the network is there")
def test_what_was_fetched_before_the_pin_is_vouched_for(bundles, line, site, start):
    _, folder = site
    offer(folder, line.sign(bundles[0]))
    assert has(start(), bundles[0])
    with refused(TrustError) as said:
        start(trust=line.trust, offline=True)
    assert said[0].endswith("fetch once while the network is there")
    assert has(start(), bundles[0])
    assert has(start(offline=True), bundles[0])
