"""What a device remembers: whole after a kill, refused when damaged, and shared by processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust import pins as pins_module
from accordion_jax.delivery.trust.documents import ReleaseFile, TrustFile
from accordion_jax.delivery.trust.pins import Pins, read_trust
from accordion_jax.delivery.trust.statements import Release, SignedRelease, text_of
from tests.delivery.checks import wait_until
from tests.delivery.signing import DAY, NOW, Line, make_keys

URL = "http://here"


def model(number):
    return f"{number:064x}"


def release(line, version, number=None, expires=None, keys=None):
    made = Release(line.trust.latest.line, version, model(number or version), expires)
    signed = SignedRelease(made, made.to_envelope().signed_by(keys or line.keys))
    return ReleaseFile(signed, line.trust).to_bytes()


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.fixture
def line(tmp_path):
    return Line.start(tmp_path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def pins(folder, line):
    pins = Pins(folder, now=lambda: NOW)
    assert not pins.is_pinned
    pins.pin(line.trust, URL)
    assert pins.is_pinned
    return pins


def test_versions_rise_and_are_remembered(folder, pins, line):
    for version in (1, 3, 3, 9):
        accepted = pins.accept(release(line, version), model(version), URL)
        assert (accepted.line, accepted.version) == ("toy", version)
    later = Pins(folder)
    assert later.lines()["toy"].at_least == 9
    assert later.accepted(model(3), URL).version == 3
    assert later.accepted(model(2), URL) is None
    for version in (1, 3, 8):
        with pytest.raises(TrustError, match="an older model is offered as new"):
            later.accept(release(line, version), model(version), URL)
    assert later.lines()["toy"].at_least == 9


def test_what_is_seen_again_is_not_written_again(folder, pins, line, monkeypatch):
    pins.accept(release(line, 1), model(1), URL)
    before = (folder / "trust" / "pins.json").stat()
    pins.accept(release(line, 1), model(1), URL)
    pins.pin(line.trust, URL)
    assert (folder / "trust" / "pins.json").stat().st_ino == before.st_ino
    # So it is taken from a disk that cannot be written any more, too.
    monkeypatch.setattr(pins_module, "write_whole", full)
    assert pins.accept(release(line, 1), model(1), URL).version == 1


def test_the_last_accepted_models_are_remembered(pins, line, monkeypatch):
    monkeypatch.setattr(pins_module, "_MOST_ACCEPTED", 3)
    for version in range(1, 6):
        pins.accept(release(line, version), model(version), URL)
    assert list(pins.lines()["toy"].accepted) == [model(3), model(4), model(5)]


@pytest.mark.parametrize(
    "how", ["cut", "empty", "changed", "gone", "not JSON", "a folder", "lower"]
)
def test_damage_is_refused_in_words_and_nothing_is_forgotten(folder, pins, line, how):
    pins.accept(release(line, 5), model(5), URL)
    path = folder / "trust" / "pins.json"
    content = path.read_bytes()
    if how in ("gone", "a folder"):
        path.unlink()
        if how == "a folder":
            path.mkdir()
    else:
        path.write_bytes(
            {
                "cut": content[:-20],
                "empty": b"",
                "changed": content.replace(b"http://here", b"http://hers"),
                "not JSON": b"\xff" * 10,
                "lower": content.replace(b'"at_least": 5', b'"at_least": 1'),
            }[how]
        )
    later = Pins(folder)
    assert later.is_pinned
    for call in (
        lambda: later.lines(),
        lambda: later.line_of(URL),
        lambda: later.accepted(model(5), URL),
        lambda: later.accept(release(line, 6), model(6), URL),
        lambda: later.pin(line.trust, URL),
        lambda: later.unpin("toy"),
    ):
        with pytest.raises(TrustError, match="is damaged or cannot be read") as raised:
            call()
        assert "is moved away and the key pinned again (--trust=FILE)" in str(raised.value)
    # Mended, all is as it was.
    if how == "a folder":
        path.rmdir()
    path.write_bytes(content)
    assert later.lines()["toy"].at_least == 5


def test_a_full_disk_forgets_nothing(folder, pins, line, monkeypatch):
    monkeypatch.setattr(pins_module, "write_whole", full)
    with pytest.raises(TrustError, match=r"cannot be written \(No space left on device\)"):
        pins.accept(release(line, 2), model(2), URL)
    monkeypatch.undo()
    assert pins.accepted(model(2), URL) is None
    assert pins.lines()["toy"].at_least == 1


KILLED = """
import sys
from accordion_jax.delivery.trust.pins import Pins
from tests.delivery.trust.test_pins import URL, model
pins, first = Pins(sys.argv[1]), int(sys.argv[2])
for number, path in enumerate(sys.argv[3:], first):
    pins.accept(open(path, "rb").read(), model(number), URL)
    print(number, flush=True)
"""


def test_killed_at_any_moment_it_remembers_all_that_it_said(folder, pins, line, tmp_path):
    paths = []
    for number in range(1, 401):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_bytes(release(line, number))
    first = 1
    for wait_for in (2, 7, 13):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, folder, str(first), *paths[first - 1 :]],
            stdout=subprocess.PIPE,
            text=True,
        )
        said = [process.stdout.readline() for _ in range(wait_for)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        last = int([each for each in said if each.endswith("\n")][-1])
        seen = Pins(folder).lines()["toy"].at_least
        assert last <= seen <= last + 1
        first = seen + 1


def test_killed_while_it_pins_it_is_pinned_or_not(folder, line, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    pins = Pins(folder)
    monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(Killed):
        pins.pin(line.trust, URL)
    monkeypatch.undo()
    assert not pins.is_pinned
    pins.pin(line.trust, URL)
    assert pins.line_of(URL) == "toy"


def test_processes_and_threads_share_it(folder, pins, line):
    documents = [release(line, version) for version in range(1, 41)]
    problems = []

    def accept(numbers):
        for number in numbers:
            try:
                Pins(folder).accept(documents[number - 1], model(number), URL)
            except TrustError as error:
                problems.append(str(error))

    threads = [threading.Thread(target=accept, args=(range(s, 41, 4),)) for s in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: not any(thread.is_alive() for thread in threads))
    assert all("an older model is offered as new" in each for each in problems)
    found = Pins(folder).lines()["toy"]
    assert found.at_least == 40
    # Whatever was accepted is remembered: none wrote over another's.
    assert len(found.accepted) == 40 - len(problems)


def test_what_a_person_pins_must_be_signed_and_not_over(folder, line, tmp_path):
    pins = Pins(folder, now=lambda: NOW)
    last = line.trust.roots[-1]
    unsigned = TrustFile((dataclasses.replace(last, envelope=last.root.to_envelope()),))
    with pytest.raises(TrustError, match="0 of its own keys signed it, wanted 1"):
        pins.pin(unsigned, URL)
    over = Line.start(tmp_path, expires=NOW)
    with pytest.raises(TrustError, match=f"expired at {text_of(NOW)}; get a newer one"):
        pins.pin(over.trust, URL)
    assert not pins.is_pinned
    with pytest.raises(TrustError, match=r"the trust file .*none.json cannot be read: No such"):
        read_trust(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(TrustError, match=r"bad.json has no 'format'"):
        read_trust(tmp_path / "bad.json")


def test_another_trust_file_of_the_line_is_refused_until_it_is_unpinned(folder, pins, tmp_path):
    other = Line.start(tmp_path)
    before = (folder / "trust" / "pins.json").read_bytes()
    with pytest.raises(TrustError, match="unpin the line first"):
        pins.pin(other.trust, URL)
    assert (folder / "trust" / "pins.json").read_bytes() == before
    with pytest.raises(TrustError, match="line 'boy' is not pinned here; pinned: toy"):
        pins.unpin("boy")
    pins.unpin("toy")
    assert not pins.is_pinned
    assert not list(folder.glob(".trust*"))
    pins.pin(other.trust, URL)


def test_rotations_by_hand_and_the_floor(pins, line, tmp_path):
    first = line.trust
    pins.accept(release(line, 7), model(7), URL)
    line.rotate(make_keys(tmp_path, 1))
    pins.pin(line.trust, URL)
    assert (pins.lines()["toy"].trust.latest.version, pins.lines()["toy"].at_least) == (2, 7)
    line.rotate(make_keys(tmp_path, 1), floor=3)
    line.rotate(line.keys)
    pins.pin(line.trust, URL)
    assert (pins.lines()["toy"].trust.latest.version, pins.lines()["toy"].at_least) == (4, 3)
    # An older file of the same chain changes nothing, and neither does the same again.
    pins.accept(release(line, 5), model(5), URL)
    for trust in (first, line.trust):
        pins.pin(trust, URL)
        assert (pins.lines()["toy"].trust.latest.version, pins.lines()["toy"].at_least) == (4, 5)
    # A device that is new starts at the last floor of the chain.
    new = Pins(tmp_path / "new")
    new.pin(line.trust, URL)
    assert new.lines()["toy"].at_least == 3


def test_several_lines(pins, line, tmp_path):
    other = Line.start(tmp_path, name="other")
    assert pins.line_of("http://elsewhere") == "toy"
    pins.accept(release(line, 1), model(1), URL)
    pins.pin(other.trust, "http://there")
    assert (pins.line_of(URL), pins.line_of("http://there")) == ("toy", "other")
    with pytest.raises(TrustError, match="has pinned other, toy"):
        pins.line_of("http://elsewhere")
    with pytest.raises(TrustError, match="is a release of line 'other'; the pinned line is 'toy'"):
        pins.accept(release(other, 1, 2), model(2), URL)
    pins.accept(release(other, 4), model(4), "http://there")
    assert pins.accepted(model(4), URL) is None
    assert pins.accepted(model(4), "http://elsewhere").version == 4
    pins.unpin("toy")
    assert pins.line_of(URL) == "other"


def test_an_overdue_model_says_so(pins, line):
    until = text_of(NOW + DAY)
    accepted = pins.accept(release(line, 1, expires=until), model(1), URL)
    assert accepted.overdue(NOW) is None
    assert "version 1 of line 'toy' expired at" in accepted.overdue(NOW + DAY)
    again = pins.accept(release(line, 1, expires=text_of(NOW + 2 * DAY)), model(1), URL)
    assert again.overdue(NOW + DAY) is None
    assert pins.accepted(model(1), URL) == again


def test_the_file_can_be_read_by_a_person(folder, pins, line):
    pins.accept(release(line, 1), model(1), URL)
    document = json.loads((folder / "trust" / "pins.json").read_text())
    assert document["lines"]["toy"]["at_least"] == 1
    assert document["sources"] == {URL: "toy"}
    assert os.listdir(folder / "trust") == ["pins.json"]  # noqa: PTH208 - hidden ones too
