"""The signed envelope: what it signs, who signed it, and what it refuses to read."""

import base64
import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust import ed25519
from accordion_jax.delivery.trust.envelope import Envelope, Signature, parsed
from tests.delivery.signing import make_keys, public

KIND = "application/x"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("keys"), 3)


def test_what_is_signed_is_the_encoding_of_the_specification():
    # The example of the specification's protocol.md.
    envelope = Envelope("http://example.com/HelloWorld", b"hello world")
    assert envelope.pae == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert Envelope("ü", b"").pae == b"DSSEv1 2 \xc3\xbc 0 "


def theirs(key):
    return SSlibKey(key, "ed25519", "ed25519", {"public": key})


def test_another_implementation_reads_what_this_one_writes(keys):
    envelope = Envelope(KIND, b'{"a": 1}').signed_by(keys[:2])
    read = TheirEnvelope.from_dict(json.loads(json.dumps(envelope.to_dict())))
    assert set(read.verify([theirs(key) for key in public(keys)], 2)) == set(public(keys[:2]))
    with pytest.raises(VerificationError):
        read.verify([theirs(key) for key in public(keys)], 3)


def test_this_one_reads_what_another_implementation_writes(keys):
    written = TheirEnvelope(b"\x00\xff", KIND, {})
    signer = CryptoSigner.generate_ed25519()
    key = signer.public_key.keyval["public"]
    signer = CryptoSigner(signer._private_key, theirs(key))
    written.sign(signer)
    read = Envelope.from_dict(json.loads(json.dumps(written.to_dict())), KIND, "it")
    assert read.payload == b"\x00\xff"
    assert read.signers([*public(keys), key]) == {key}


@hypothesis.given(
    payload=st.binary(max_size=300),
    kind=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    where=st.integers(0, 2**16),
    flip=st.integers(1, 255),
    part=st.sampled_from(["payload", "kind", "signature", "key"]),
)
def test_any_change_of_one_byte_and_it_is_not_signed(keys, payload, kind, where, flip, part):
    [key], envelope = public(keys[:1]), Envelope(kind, payload).signed_by(keys[:1])
    assert envelope.signers([key]) == {key}

    def changed(data):
        place = where % len(data)
        return data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]

    signature = envelope.signatures[0]
    if part == "payload":
        hypothesis.assume(payload)
        envelope = dataclasses.replace(envelope, payload=changed(payload))
    elif part == "kind":
        envelope = dataclasses.replace(envelope, payload_type=kind + "x")
    elif part == "signature":
        other = Signature(key, changed(signature.value))
        envelope = dataclasses.replace(envelope, signatures=(other,))
    else:
        other = changed(bytes.fromhex(key)).hex()
        envelope = dataclasses.replace(envelope, signatures=(Signature(other, signature.value),))
        assert envelope.signers([other]) == frozenset()
    assert envelope.signers([key]) == frozenset()


def test_each_key_counts_once(keys):
    envelope = Envelope(KIND, b"x").signed_by([keys[0], keys[0], keys[1]])
    assert len(envelope.signatures) == 2
    doubled = dataclasses.replace(envelope, signatures=envelope.signatures * 3)
    assert doubled.signers(public(keys)) == set(public(keys[:2]))
    # One that is broken does not hide one that is right.
    broken = Signature(public(keys)[0], bytes(64))
    both = dataclasses.replace(envelope, signatures=(broken, *envelope.signatures))
    assert both.signers(public(keys)) == set(public(keys[:2]))


@pytest.mark.parametrize("value", [b"", b"\x00" * 63, b"\x00" * 65, b"\xff" * 64])
def test_signatures_of_odd_sizes_are_none(keys, value):
    [key] = public(keys[:1])
    assert not ed25519.is_signed(key, value, b"x")
    assert not ed25519.is_signed("f" * 64, value, b"x")


def good(keys):
    return Envelope(KIND, b"{}").signed_by(keys).to_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"payloadType": "application/y"}, "payloadType='application/y'; wanted 'application/x'"),
        ({"payload": 5}, "payload=5; wanted base64"),
        ({"payload": "a"}, "is not base64"),
        ({"payload": "&&&&"}, "is not base64"),
        ({"payload": base64.b64encode(bytes(20_000)).decode()}, "20000 bytes; at most 16384"),
        ({"signatures": {}}, "signatures={}; wanted a list of at most 32"),
        ({"signatures": [{}] * 33}, "wanted a list of at most 32"),
        ({"signatures": [5]}, "a signature of it is 5"),
        ({"signatures": [{"keyid": "A" * 64, "sig": ""}]}, "wanted 64 hexadecimal digits"),
        ({"signatures": [{"keyid": "a" * 64 + "\n", "sig": ""}]}, "wanted 64 hexadecimal digits"),
        ({"signatures": [{"keyid": "a" * 64}]}, "has no 'sig'"),
        ({"more": 1}, "has 'more'; wanted only payloadType"),
    ],
)
def test_what_is_no_envelope(keys, change, said):
    with pytest.raises(TrustError) as raised:
        Envelope.from_dict(good(keys) | change, KIND, "it")
    assert said in str(raised.value)


@pytest.mark.parametrize("name", ["payloadType", "payload", "signatures"])
def test_what_lacks_a_part(keys, name):
    document = {key: value for key, value in good(keys).items() if key != name}
    with pytest.raises(TrustError, match=f"has no '{name}'"):
        Envelope.from_dict(document, KIND, "it")


def test_either_alphabet_of_base64_is_read():
    document = {"payloadType": KIND, "payload": "_-8=", "signatures": []}
    assert Envelope.from_dict(document, KIND, "it").payload == b"\xff\xef"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b"NaN", b"1.0", b"1e3", b'{"a":1,"a":2}', b"[" * 9000, b"9" * 5000],
)
def test_json_that_could_mean_two_things_is_refused(data):
    with pytest.raises(TrustError, match="it is not JSON as it must be"):
        parsed(data, "it", 1 << 20)
    with pytest.raises(TrustError, match="it has 11 bytes; at most 10 are read"):
        parsed(b" " * 11, "it", 10)
