"""Ed25519 keys (RFC 8032): made, kept in PEM files, and used, by the package `cryptography`.

A public key is named by its 32 bytes in hexadecimal: nothing to derive, and no two names for one.
The package is imported when it is first needed; a device that has pinned no key does without.
"""

import os
import pathlib
import re
from typing import Any

from accordion_jax.delivery.errors import TrustError
from accordion_jax.system.files import write_whole

_KEY = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 16


def is_public(text: Any) -> bool:
    """Whether this is a public key as it stands in a trust file."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def make_pair(path: str | os.PathLike, passphrase: bytes | None = None) -> tuple[str, pathlib.Path]:
    """Makes a key pair; returns the public key, and the path of its file.

    Args:
      path: of the private key's PEM file (PKCS #8, readable by its owner alone). The public key's
        is beside it, with the ending ``.pub``.
      passphrase: encrypts the private key.

    Raises:
      TrustError: `cryptography` is not installed; says what to install.
      FileExistsError: one of the files is there already: a key is never overwritten.
    """
    serialization, ed25519, _ = _library()
    path = pathlib.Path(path)
    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise FileExistsError(f"{public_path} is there already; name another file for the key")
    private = ed25519.Ed25519PrivateKey.generate()
    content = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The mode is there from the first moment on, not set afterwards.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FileExistsError(f"{path} is there already; a key is never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_whole(public_path, pem)
    return public_of(private), public_path


def read_private(path: str | os.PathLike, passphrase: bytes | None = None) -> Any:
    """Returns the private key in a PEM file.

    Raises:
      FileNotFoundError: there is none.
      TrustError: it holds no Ed25519 private key, or the passphrase is missing or wrong; or as
        `make_pair`.
    """
    serialization, ed25519, _ = _library()
    content = _content(path)
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except TypeError:
        said = (
            "is encrypted; give its passphrase (--passphrase_env or --passphrase_file)"
            if passphrase is None
            else "is not encrypted; leave the passphrase out"
        )
        raise TrustError(f"{path} {said}") from None
    except Exception as error:  # the library's own kinds have no common base
        raise TrustError(
            f"{path} holds no private key in PEM, or the passphrase is wrong; wanted the file that "
            "was made as a private key"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise TrustError(f"{path} holds a {type(key).__name__}; wanted an Ed25519 private key")
    return key


def read_public(path: str | os.PathLike) -> str:
    """Returns the public key in a PEM file.

    Raises:
      FileNotFoundError: there is none.
      TrustError: it holds no Ed25519 public key; or as `make_pair`.
    """
    serialization, ed25519, _ = _library()
    try:
        key = serialization.load_pem_public_key(_content(path))
    except Exception as error:  # the library's own kinds have no common base
        raise TrustError(f"{path} holds no public key in PEM; wanted a file *.pub") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise TrustError(f"{path} holds a {type(key).__name__}; wanted an Ed25519 public key")
    return key.public_bytes_raw().hex()


def public_of(private: Any) -> str:
    """Returns the public key of a private one."""
    return private.public_key().public_bytes_raw().hex()


def is_signed(public: str, signature: bytes, message: bytes) -> bool:
    """Whether the holder of a public key signed a message.

    Raises:
      TrustError: as `make_pair`.
    """
    _, ed25519, exceptions = _library()
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(signature, message)
    except (exceptions.InvalidSignature, ValueError):
        return False
    return True


def _content(path: str | os.PathLike) -> bytes:
    with pathlib.Path(path).open("rb") as file:
        return file.read(_MOST_BYTES)


def _library() -> tuple[Any, Any, Any]:
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise TrustError(
            f"signatures cannot be made or checked ({error}); install what that needs: "
            "pip install 'accordion_jax[trust]'"
        ) from error
    return serialization, ed25519, exceptions
