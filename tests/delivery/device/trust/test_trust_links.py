"""A release over links and servers that are slow, endless or gone; in virtual time."""

import contextlib
import itertools
import sys

import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import ConnectionLostError, TransportError, TrustError
from accordion_jax.delivery.trust.documents import MAX_RELEASE_BYTES
from tests.delivery.checks import in_use
from tests.delivery.odd import Answer, odd_device
from tests.delivery.signing import NOW, Line, release_of
from tests.delivery.toys import make_parts


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signed")
    line = Line.start(folder)
    return line, line.sign(write_bundle(folder / "bundles", **make_parts(blocks=2)))


def releasing(bundle, answer=None):
    """Answers for releases with the right one, or with what `answer` gives."""
    right = release_of(bundle).to_bytes()

    def change(request, usual):
        if not request.url.path.endswith("/release"):
            return None
        return Answer(body=right) if answer is None else answer(right)

    return change


@contextlib.contextmanager
def device_of(signed, folder, answer=None, **kwargs):
    line, bundle = signed
    with odd_device(bundle, folder, releasing(bundle, answer), trust=line.trust, **kwargs) as both:
        both[0].pins.now = lambda: NOW
        yield both


def kept(signed, folder):
    with device_of(signed, folder) as (device, _):
        device.connect()
        assert device.upgrade().configuration == "toy-2"


def dribbling(right):
    return Answer(body=itertools.chain.from_iterable((b" ", 5) for _ in itertools.count()))


def endless(right):
    return Answer(body=(b" " * 4096 for _ in itertools.count()))


def test_slow_retrieval_ends_and_the_model_in_use_stays(signed, tmp_path):
    """A byte every five seconds is never a time-out of a connection, and never an end."""
    kept(signed, tmp_path)
    with device_of(signed, tmp_path, dribbling) as (device, odd):
        device.connect()
        assert in_use(device) == "toy-2"
        assert "bytes when time was over" in device.outcome().problems[0]
        assert 60 <= device.clock.now() <= 70
        assert len(odd.requests) == 2
    with (
        device_of(signed, tmp_path / "fresh", dribbling) as (device, _),
        pytest.raises(ConnectionLostError, match="when time was over"),
    ):
        device.connect()


def test_slow_retrieval_counts_against_the_deadline(signed, tmp_path):
    kept(signed, tmp_path)
    with device_of(signed, tmp_path, dribbling) as (device, _):
        device.connect(deadline_s=7.0)
        assert in_use(device) == "toy-2"
        assert device.clock.now() <= 10


def test_endless_data_is_read_no_further_than_the_limit(signed, tmp_path):
    kept(signed, tmp_path)
    with device_of(signed, tmp_path, endless) as (device, odd):
        device.connect()
        assert in_use(device) == "toy-2"
        assert "answers more than 524288 bytes; that is no release" in device.outcome().problems[0]
        assert MAX_RELEASE_BYTES < odd.taken_bytes < MAX_RELEASE_BYTES + 100_000


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "comes with no signed release"), (403, "no signed release"), (503, "answered 503")],
)
def test_a_server_that_does_not_give_it(signed, tmp_path, status, said):
    kept(signed, tmp_path)
    with device_of(signed, tmp_path, lambda right: Answer(status)) as (device, _):
        device.connect()
        assert in_use(device) == "toy-2"
        assert said in device.outcome().problems[0]
    with (
        device_of(signed, tmp_path / "fresh", lambda right: Answer(status)) as (device, _),
        pytest.raises((TrustError, TransportError), match=said),
    ):
        device.connect()


def test_an_answer_that_nothing_is_new_is_none(signed, tmp_path):
    kept(signed, tmp_path)
    with device_of(signed, tmp_path, lambda right: Answer(304)) as (device, _):
        device.connect()
        assert "is not JSON" in device.outcome().problems[0]
        assert in_use(device) == "toy-2"


def test_damaged_pins_leave_the_model_in_use(signed, tmp_path):
    kept(signed, tmp_path)
    _, bundle = signed
    (tmp_path / "trust" / "pins.json").write_bytes(b"")
    with odd_device(bundle, tmp_path, releasing(bundle)) as (device, odd):
        device.connect()
        assert in_use(device) == "toy-2"
        assert "pins.json, which says which keys this device trusts" in device.outcome().problems[0]
        # Nothing was asked of the network: whatever it says cannot be checked.
        assert odd.requests == []
    # A device that holds nothing has nothing to go on with.
    (tmp_path / "fresh" / "trust").mkdir(parents=True)
    with (
        odd_device(bundle, tmp_path / "fresh", releasing(bundle)) as (device, odd),
        pytest.raises(TrustError, match="is damaged or cannot be read"),
    ):
        device.connect()


def test_without_the_package_for_signatures_the_model_in_use_stays(signed, tmp_path, monkeypatch):
    kept(signed, tmp_path)
    line, bundle = signed
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with odd_device(bundle, tmp_path, releasing(bundle)) as (device, _):
        device.connect()
        assert in_use(device) == "toy-2"
        assert "pip install 'accordion_jax[trust]'" in device.outcome().problems[0]
    with pytest.raises(TrustError, match="install what that needs"):
        odd_device(bundle, tmp_path / "x", releasing(bundle), trust=line.trust).__enter__()
