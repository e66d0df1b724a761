"""DSSE: a signed envelope around bytes, which are read only after their signatures were checked.

The Dead Simple Signing Envelope, version 1 (https://github.com/secure-systems-lab/dsse), as in-toto
and sigstore use it. What is signed is ``PAE(payloadType, payload)``, in which the lengths stand
before the texts, so that no statement can be taken for one of another type.
"""

import base64
import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust import ed25519
from accordion_jax.system.text import short

MAX_SIGNATURES = 32
MAX_PAYLOAD_BYTES = 1 << 14


@dataclasses.dataclass(frozen=True)
class Signature:
    """One signature.

    Attributes:
      keyid: the public key, as the signer says; a hint that is not trusted.
      value: 64 bytes of Ed25519.
    """

    keyid: str
    value: bytes


@dataclasses.dataclass(frozen=True)
class Envelope:
    """Bytes, and who signed them.

    Attributes:
      payload_type: what the bytes are; is signed too.
      payload: the bytes.
      signatures: not checked yet.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def from_dict(cls, document: Any, payload_type: str, source: str) -> "Envelope":
        """Reads the JSON form of an envelope, and checks no signature.

        Args:
          document: what was parsed.
          payload_type: that it must have.
          source: what to call it in errors.

        Raises:
          TrustError: it is no envelope of this type, or exceeds the limits; names the source and
            the value.
        """
        fields = checked(
            document,
            {
                "payloadType": (lambda v: v == payload_type, f"{payload_type!r}"),
                "payload": (lambda v: isinstance(v, str), "base64"),
                "signatures": (
                    lambda v: isinstance(v, list) and len(v) <= MAX_SIGNATURES,
                    f"a list of at most {MAX_SIGNATURES} signatures",
                ),
            },
            source,
        )
        payload = _unpacked(fields["payload"], f"payload of {source}")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise TrustError(
                f"{source} has a payload of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are "
                "read"
            )
        return cls(payload_type, payload, tuple(_signatures(fields["signatures"], source)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [
                {"keyid": each.keyid, "sig": base64.b64encode(each.value).decode()}
                for each in self.signatures
            ],
        }

    @property
    def pae(self) -> bytes:
        """What is signed: the pre-authentication encoding of type and payload."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    def signed_by(self, privates: Iterable[Any]) -> "Envelope":
        """Returns the envelope with a signature more of each private key that has none in it."""
        signatures = {each.keyid: each for each in self.signatures}
        for private in privates:
            public = ed25519.public_of(private)
            signatures[public] = Signature(public, private.sign(self.pae))
        return dataclasses.replace(self, signatures=tuple(signatures.values()))

    def signers(self, keys: Collection[str]) -> frozenset[str]:
        """Returns which of these public keys signed; each once, however often it did."""
        return frozenset(
            key
            for key in keys
            if any(
                ed25519.is_signed(key, each.value, self.pae)
                for each in self.signatures
                if each.keyid == key
            )
        )


def checked(
    document: Any, fields: Mapping[str, tuple[Callable[[Any], bool], str]], source: str
) -> dict[str, Any]:
    """Returns an object that has exactly these fields, each as it must be.

    Args:
      document: what was parsed.
      fields: name -> (whether a value is right, what is wanted in words).
      source: what to call it in errors.

    Raises:
      TrustError: it is none; names the source, the field, its value and what was wanted.
    """
    if not isinstance(document, dict):
        raise TrustError(f"{source} is {short(document)}; wanted an object of {', '.join(fields)}")
    for name in fields:
        if name not in document:
            raise TrustError(f"{source} has no {name!r}; wanted {', '.join(fields)}")
    for name in document:
        if name not in fields:
            raise TrustError(f"{source} has {short(name)}; wanted only {', '.join(fields)}")
    for name, (is_right, wanted) in fields.items():
        if not is_right(document[name]):
            raise TrustError(f"{source} has {name}={short(document[name])}; wanted {wanted}")
    return document


def parsed(data: bytes, source: str, most_bytes: int) -> Any:
    """Returns what JSON says, if it can mean one thing alone.

    Raises:
      TrustError: it is larger than `most_bytes`, is not JSON, or has a key twice or a number that
        is not whole; names the source.
    """

    def refuse(number: str) -> None:
        raise ValueError(f"{short(number)} is no whole number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            raise ValueError("an object has one key twice")
        return document

    if len(data) > most_bytes:
        raise TrustError(f"{source} has {len(data)} bytes; at most {most_bytes} are read")
    try:
        return json.loads(data, parse_constant=refuse, parse_float=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise TrustError(f"{source} is not JSON as it must be: {error}") from error


def _signatures(documents: list[Any], source: str) -> Iterable[Signature]:
    for document in documents:
        fields = checked(
            document,
            {
                "keyid": (ed25519.is_public, "64 hexadecimal digits in lower case"),
                "sig": (lambda v: isinstance(v, str), "base64"),
            },
            f"a signature of {source}",
        )
        yield Signature(fields["keyid"], _unpacked(fields["sig"], f"a signature of {source}"))


def _unpacked(text: str, what: str) -> bytes:
    """Bytes of base64; DSSE leaves the choice of its alphabet to the writer."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError as error:
        raise TrustError(f"the {what} is not base64: {error}") from error
