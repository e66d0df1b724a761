"""The `trust` command: keys, trust files and signatures, as a person makes them."""

import os
import shutil
import stat
import subprocess
import sys
import time

import httpx
import pytest
from absl import app, flags

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.trust.documents import RELEASE_NAME, TrustFile
from tests.delivery.endpoints import running_endpoint
from tests.delivery.resnets import write_resnet
from tests.delivery.signing import release_of, trust
from tests.delivery.toys import make_parts

__all__ = ["trust"]


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    old = write_bundle(folder, **make_parts(blocks=1))
    new = write_bundle(folder, **make_parts(blocks=1, seed=1), follows=old.name)
    return old, new


@pytest.fixture
def bundles(unsigned, tmp_path):
    return [shutil.copytree(each, tmp_path / "bundles" / each.name) for each in unsigned]


@pytest.fixture
def started(trust):
    """The command, with a key and a trust file of line `toy`."""
    trust("key", "a.pem")
    trust("create", "--line=toy", "--keys=a.pem", "--out=trust.json")
    return trust


def test_from_a_key_to_a_device_that_refuses(trust, tmp_path, run_command):
    old, _, _ = write_resnet(tmp_path / "bundles")
    new, _, _ = write_resnet(tmp_path / "bundles", seed=1)
    trust("key", "a.pem")
    trust("create", "--line=toy", "--keys=a.pem", "--out=trust.json")
    trust("sign", old, "--trust=trust.json", "--keys=a.pem")
    trust("sign", new, "--trust=trust.json", "--keys=a.pem")

    def fetch(url, *flags):
        return run_command("accordion_jax.fetch", url, f"--cache={tmp_path / 'cache'}", *flags)

    with running_endpoint(tmp_path / "bundles") as url:
        done = fetch(url, f"--trust={tmp_path / 'trust.json'}", "--upgrade")
        assert done.returncode == 0, done.stderr
        words = "trust        version 2 of line toy, signature verified; expires never\n"
        assert words in done.stdout
        assert f"model        {new.name[:16]}" in done.stdout
        shutil.rmtree(new)
        gives_up = time.monotonic() + 60
        while httpx.get(f"{url}/v1/models").json()["models"][0]["model_id"] != old.name:
            assert time.monotonic() < gives_up  # the endpoint looks into its folder now and then
            time.sleep(0.1)
        refused = fetch(url)
        assert "problem: the release that http" in refused.stderr
        assert "an older model is offered as new" in refused.stderr
        assert f"model        {new.name[:16]}" in refused.stdout
        assert words in refused.stdout
    assert fetch(url, "--step_down=1").returncode == 0
    shown = trust("pins", f"--cache={tmp_path / 'cache'}")
    assert "at least  version 2 of toy" in shown
    assert f"accepted  version 2, model {new.name}" in shown
    bad = fetch(url, f"--trust={tmp_path / 'none.json'}")
    assert bad.returncode == 1
    assert bad.stderr.splitlines()[-1].startswith("error: the trust file")
    assert "unpinned  toy" in trust("unpin", f"--cache={tmp_path / 'cache'}", "--line=toy")
    assert "no key is pinned" in trust("pins", f"--cache={tmp_path / 'cache'}")


def test_keys_are_for_their_owner_alone(trust, tmp_path, monkeypatch):
    monkeypatch.setenv("WORD", "correct horse")
    printed = trust("key", "a.pem", "--passphrase_env=WORD")
    (tmp_path / "word").write_text("correct horse\n")
    trust("key", "deep/b.pem", "--passphrase_file=word")
    for name in ("a.pem", "deep/b.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        content = (tmp_path / name).read_text()
        assert content.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "correct horse" not in printed
    assert "PRIVATE" not in printed
    key = printed.split()[-1]
    assert len(key) == 64
    shown = trust(
        "create", "--line=toy", "--keys=a.pem", "--public_keys=deep/b.pem.pub", "--out=t.json",
        "--passphrase_file=word",
    )  # fmt: skip
    assert key in shown
    assert len(TrustFile.read("t.json").latest.keys) == 2
    with pytest.raises(DeliveryError, match="is encrypted; give its passphrase"):
        trust("cosign", "--trust=t.json", "--keys=a.pem")
    monkeypatch.setenv("WORD", "wrong")
    with pytest.raises(DeliveryError, match="the passphrase is wrong"):
        trust("cosign", "--trust=t.json", "--keys=a.pem", "--passphrase_env=WORD")
    with pytest.raises(FileExistsError, match=r"a.pem.pub is there already"):
        trust("key", "a.pem")
    (tmp_path / "a.pem.pub").unlink()
    with pytest.raises(FileExistsError, match="a key is never overwritten"):
        trust("key", "a.pem")


def test_one_passphrase_serves_for_some_of_the_keys(trust, monkeypatch):
    monkeypatch.setenv("WORD", "correct horse")
    flags = ("--trust=trust.json", "--passphrase_env=WORD")
    trust("key", "a.pem", "--passphrase_env=WORD")
    trust("key", "b.pem")
    trust("create", "--line=toy", "--keys=a.pem,b.pem", "--out=trust.json", flags[1])
    assert "missing" not in trust("rotate", "--keys=b.pem", "--old_keys=a.pem", *flags)


def test_openssl_reads_the_keys(trust, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key = trust("key", "a.pem").split()[-1]
    done = subprocess.run(
        [openssl, "pkey", "-in", "a.pem", "-pubout", "-outform", "DER"],
        capture_output=True,
        check=True,
    )
    assert done.stdout[-32:].hex() == key


def test_versions_rise_and_the_same_bundle_keeps_its_own(started, bundles):
    old, new = bundles
    flags = ("--trust=trust.json", "--keys=a.pem")
    assert "release   version 1 of line toy, expires never" in started("sign", old, *flags)
    assert "release   version 2 of line toy, expires never" in started("sign", new, *flags)
    # Signed anew, with another end: the version stays.
    shown = started("sign", old, *flags, "--expires=2099-01-31")
    assert "release   version 1 of line toy, expires 2099-01-31T00:00:00Z" in shown
    assert "2099-01-31" in started("sign", old, *flags)
    assert "expires 20" in started("sign", old, *flags, "--expires=30d")
    with pytest.raises(DeliveryError, match=f"version 2 of line 'toy' is bundle {new.name} alre"):
        started("sign", old, *flags, "--release_version=2")
    started("sign", old, *flags, "--release_version=5")
    with pytest.raises(DeliveryError, match=f"not higher than 5, that of bundle {old.name}"):
        started("sign", new, *flags, "--release_version=4")
    with pytest.raises(DeliveryError, match="which is over; give a later one"):
        started("sign", new, *flags, "--release_version=6", "--expires=2020-01-01")
    # Nothing of a bundle but its release, and the front that has it too, has changed.
    assert sorted(path.name for path in new.iterdir()) == [
        "front",
        "manifest.json",
        RELEASE_NAME,
        "segments",
    ]
    assert "verified  2 segments" in started("verify", new, "--trust=trust.json")
    assert "version 2 of line toy" in started("show", new)


def test_a_damaged_release_is_not_taken_for_none(started, bundles):
    """As version 1 again, the bundle would be refused by each device that saw it."""
    flags = ("--trust=trust.json", "--keys=a.pem")
    started("sign", bundles[0], *flags, "--release_version=5")
    (bundles[0] / RELEASE_NAME).write_bytes(b"{")
    with pytest.raises(DeliveryError, match="which version this bundle was cannot be told"):
        started("sign", bundles[0], *flags)
    assert (bundles[0] / RELEASE_NAME).read_bytes() == b"{"
    assert "version 5 of line toy" in started("sign", bundles[0], *flags, "--release_version=5")


def test_what_is_not_sound_is_not_signed_and_not_verified(started, bundles):
    old, new = bundles
    flags = ("--trust=trust.json", "--keys=a.pem")
    started("sign", old, *flags)
    started("key", "b.pem")
    with pytest.raises(DeliveryError, match="does not count for line 'toy'; those that do: "):
        started("sign", new, "--trust=trust.json", "--keys=b.pem")
    started("create", "--line=toy", "--keys=b.pem", "--out=other.json")
    with pytest.raises(DeliveryError, match="is signed by 0 of the keys"):
        started("verify", old, "--trust=other.json")
    segment = segment_path(old, read_manifest(old).segments[0].sha256)
    content = segment.read_bytes()
    segment.write_bytes(content[:-1] + b"x")
    for action in (("sign", old, *flags), ("verify", old, "--trust=trust.json")):
        with pytest.raises(DeliveryError, match="the manifest says"):
            started(*action)
    with pytest.raises(FileNotFoundError):
        started("verify", new, "--trust=trust.json")


def test_several_people_sign_in_turn(trust, bundles):
    for name in "abc":
        trust("key", f"{name}.pem")
    shown = trust(
        "create", "--line=toy", "--keys=a.pem", "--public_keys=b.pem.pub,c.pem.pub",
        "--threshold=2", "--out=trust.json", "--require_expiry",
    )  # fmt: skip
    assert "missing   1 of its own keys signed it, wanted 2: let them sign it" in shown
    assert "each release must have an expiry" in shown
    assert "missing   1 of its own keys" in trust("show", "trust.json")
    with pytest.raises(DeliveryError, match="does not count: 1 of its own keys signed it"):
        trust("sign", bundles[0], "--trust=trust.json", "--keys=a.pem")
    assert "missing" not in trust("cosign", "--trust=trust.json", "--keys=b.pem")
    with pytest.raises(DeliveryError, match="demands an expiry; give one"):
        trust("sign", bundles[0], "--trust=trust.json", "--keys=a.pem")
    one = ("sign", bundles[0], "--trust=trust.json", "--expires=2099-01-01")
    assert "by 1 of 2 keys that are wanted; 1 more must sign it" in trust(*one, "--keys=a.pem")
    with pytest.raises(DeliveryError, match="is signed by 1 of the keys"):
        trust("verify", bundles[0], "--trust=trust.json")
    assert "by 1 of 2 keys" in trust(*one, "--keys=a.pem")
    assert "by 2 of 2 keys that are wanted\n" in trust(*one, "--keys=c.pem")
    trust("verify", bundles[0], "--trust=trust.json")
    # What has changed must be signed by all again.
    later = ("sign", bundles[0], "--trust=trust.json", "--expires=2099-01-02", "--keys=a.pem")
    assert "by 1 of 2 keys" in trust(*later)
    assert len(release_of(bundles[0]).signed.envelope.signatures) == 1


def test_rotation(started, bundles):
    started("sign", bundles[0], "--trust=trust.json", "--keys=a.pem")
    started("key", "b.pem")
    lonely = ("rotate", "--trust=trust.json", "--keys=b.pem", "--out=two.json")
    assert "missing   0 of the keys before signed it, wanted 1" in started(*lonely)
    shown = started("cosign", "--trust=two.json", "--keys=a.pem")
    assert "missing" not in shown
    started("rotate", "--trust=trust.json", "--keys=b.pem", "--old_keys=a.pem", "--floor=1")
    assert "version 2 of its keys" in started("show", "trust.json")
    assert "floor     releases from version 1 on" in started("show", "trust.json")
    with pytest.raises(DeliveryError, match="is signed by 0 of the keys"):
        started("verify", bundles[0], "--trust=trust.json")
    with pytest.raises(DeliveryError, match="does not count for line"):
        started("sign", bundles[0], "--trust=trust.json", "--keys=a.pem")
    started("sign", bundles[0], "--trust=trust.json", "--keys=b.pem")
    [signature] = release_of(bundles[0]).signed.envelope.signatures
    assert signature.keyid == TrustFile.read("trust.json").latest.keys[0]
    assert len(release_of(bundles[0]).trust.roots) == 2
    with pytest.raises(DeliveryError, match="threshold=2 is not possible; wanted 1 to 1 keys"):
        started("rotate", "--trust=trust.json", "--keys=b.pem", "--threshold=2")
    with pytest.raises(DeliveryError, match="0 keys are given; wanted 1 to 16"):
        started("rotate", "--trust=trust.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "wanted one of key, create, rotate"),
        (["make"], "wanted one of key, create, rotate"),
        (["key"], "key takes one file to write the private key to; got []"),
        (["create", "x"], "create takes flags alone; got ['x']"),
        (["create", "--keys=a.pem", "--out=x.json"], "give --line"),
        (["create", "--keys=a.pem", "--line=a/b", "--out=x.json"], "line='a/b' is not possible"),
        (["create", "--keys=a.pem", "--line=a", "--out=trust.json"], "trust.json is there already"),
        (["create", "--keys=a.pem.pub", "--line=a", "--out=x.json"], "holds no private key"),
        (["create", "--keys=none.pem", "--line=a", "--out=x.json"], "No such file"),
        (
            ["create", "--public_keys=a.pem", "--line=a", "--out=x.json"],
            "a.pem holds no public key in PEM; wanted a file *.pub",
        ),
        (["rotate", "--keys=a.pem"], "give --trust"),
        (["rotate", "--keys=a.pem", "--trust=a.pem"], "a.pem is not JSON as it must be"),
        (
            ["rotate", "--keys=a.pem", "--trust=trust.json", "--expires=soon"],
            "--expires=soon is no",
        ),
        (["rotate", "--keys=a.pem", "--trust=trust.json", "--expires=0d"], "--expires=0d is no"),
        (["rotate", "--keys=a.pem", "--trust=trust.json", "--floor=0"], "--floor=0"),
        (["sign", "nowhere", "--keys=a.pem", "--trust=trust.json"], "no bundle at nowhere"),
        (["show", "nowhere"], "No such file"),
        (["cosign", "--trust=trust.json", "--keys=a.pem", "--passphrase_env=NONE"], "in NONE"),
        (["unpin", "--cache=cache", "--line=toy"], "line 'toy' is not pinned here; pinned: -"),
        (["sign", "--no_such_flag"], "Unknown command line flag"),
    ],
)
def test_what_a_person_may_get_wrong_is_told_and_changes_nothing(
    started, tmp_path, arguments, said
):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    # Those that a command turns into one line.
    with pytest.raises((DeliveryError, ValueError, OSError, app.UsageError, flags.Error)) as raised:
        started(*arguments)
    assert said in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_error_is_one_line(run_command, tmp_path):
    done = run_command("accordion_jax.trust", "show", tmp_path / "none.json")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "No such file" in line
    assert "keys, and who may answer" in run_command("accordion_jax.trust", "--help").stdout.lower()


def test_without_the_package_it_says_what_to_install(tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError('none here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "accordion_jax.trust", "key", str(tmp_path / "a.pem")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'accordion_jax[trust]'" in done.stderr
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "a.pem").exists()
