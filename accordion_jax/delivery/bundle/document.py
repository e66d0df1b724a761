"""A manifest as a JSON document: what is refused before its parts are looked at."""

import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema

from accordion_jax.delivery.errors import ManifestError
from accordion_jax.system.text import short

FORMAT = "accordion-bundle"
FORMAT_VERSION = 2
# Whoever reads a manifest, from a network or a disk, stops here: a hostile or mistaken file must
# not fill the memory.
MAX_MANIFEST_BYTES = 16 << 20
# Numbers, names and lists in one.
MAX_VALUES = 1 << 19
# Of segments and of configurations.
MAX_ENTRIES = 4096
# Configurations times segments: a plan is computed with a number for each pair.
MAX_PAIRS = 1 << 20

_SCHEMA_PATH = pathlib.Path(__file__).with_name("manifest.schema.json")


def canonical_json(document: Any) -> bytes:
    """Returns a JSON document as bytes that depend on its content only.

    Keys sorted, no spaces, UTF-8, numbers as Python writes them.

    Raises:
      TypeError: a value has no JSON form.
      ValueError: a number is not finite.
    """
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def digest(data: bytes) -> str:
    """Returns the SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@functools.cache
def manifest_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a manifest."""
    return json.loads(_SCHEMA_PATH.read_text(encoding="utf-8"))


def read_document(data: bytes, source: str, expected_id: str | None) -> dict[str, Any]:
    """Returns a manifest's document, checked as far as its schema and its digest go.

    Args:
      data: of it.
      source: what to call it in errors.
      expected_id: the model_id that was asked for.

    Raises:
      ManifestError: it is too large, not JSON, of another format or version, against the schema,
        or its model_id is not the digest of the rest, or not the expected one.
    """
    _check_extent(data, source)
    document = _parse(data, source)
    _check_version(document, source)
    _check_schema(document, source)
    model_id = document["model_id"]
    content = content_digest(document, source)
    if content != model_id:
        raise ManifestError(
            f"{source} has model_id={model_id}, but its content has the digest {content}: it "
            "was changed after it was written; fetch or write it again"
        )
    if expected_id is not None and model_id != expected_id:
        raise ManifestError(f"{source} is of model {model_id}; wanted {expected_id}")
    return document


def content_digest(document: Mapping[str, Any], source: str) -> str:
    """Returns the digest of everything but the model_id.

    Raises:
      ManifestError: a value has no JSON form.
    """
    try:
        return digest(canonical_json({k: v for k, v in document.items() if k != "model_id"}))
    except ValueError as error:  # a number like 1e999, or half of a surrogate pair
        raise ManifestError(f"{source} has a value that JSON cannot carry: {error}") from error


def _check_extent(data: bytes, source: str) -> None:
    """Before anything is parsed: what is made of the bytes takes many times their memory."""
    # Each value but the first of its list or object follows a comma.
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    for found, most, what in (
        (len(data), MAX_MANIFEST_BYTES, "bytes"),
        (values, MAX_VALUES, "values"),
    ):
        if found > most:
            raise ManifestError(
                f"{source} has {found} {what}; a manifest has at most {most}: cut the model into "
                "fewer segments or configurations"
            )


def _parse(data: bytes, source: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{source} is not JSON: {error}") from error


def _check_version(document: Any, source: str) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ManifestError(f"{source} has format={short(found)}; wanted {FORMAT!r}")
    version = document.get("format_version")
    if version == FORMAT_VERSION and not isinstance(version, bool):
        return
    older = version == 1 and not isinstance(version, bool)
    raise ManifestError(
        f"{source} has format_version={short(version)}; this version of accordion_jax reads "
        f"{FORMAT_VERSION}: "
        + (
            "write the bundle again from its run, with python -m accordion_jax.bundle"
            if older
            else "upgrade accordion_jax, or write the bundle again"
        )
    )


def _is_whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= 2**53 - 1


def _is_positive(value: Any) -> bool:
    return _is_whole(value, 1)


def _is_change(value: Any) -> bool:
    return type(value) is int and -(2**53) <= value <= 2**53


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_ENTRIES


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MASK = re.compile(r"[01]*")


def _is_name(value: Any) -> bool:
    return type(value) is str and _NAME.fullmatch(value) is not None


def _is_index_or_none(value: Any) -> bool:
    return value is None or _is_index(value)


def _is_bits(value: Any) -> bool:
    return value is None or (type(value) is int and value in (*range(1, 9), 16, 32))


def _is_layout(value: Any) -> bool:
    return _is_positive(value) or type(value) is list


def _is_mask(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_ENTRIES and _MASK.fullmatch(value) is not None


def _is_set(value: Any) -> bool:
    if type(value) is list:
        return 1 <= len(value) <= MAX_ENTRIES and all(map(_is_index, value))
    return type(value) is int and 1 <= value <= MAX_ENTRIES


def _is_loss(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 2**53 - 1


# Lists, those in a row of equal length; and what each of their entries must be. The schema says the
# same, but its validator takes tens of microseconds a value.
_COLUMNS: Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "units": {
        "name": (_is_name, "a name"),
        "layout": (_is_index, "an index"),
    },
    "segments": {
        "unit": (_is_index, "an index"),
        "bits": (_is_bits, "1 to 8, 16, 32 or null"),
        "size_bytes": (_is_positive, "a whole number from 1 to 2^53 - 1"),
    },
    "depths": {
        "skip_mask": (_is_mask, "a text of 0 and 1"),
        "parameters": (_is_change, "a whole number from -2^53 to 2^53"),
        "macs": (_is_change, "a whole number from -2^53 to 2^53"),
        "statistics": (_is_index_or_none, "an index or null"),
    },
    "ladder": {
        "name": (_is_name, "a name"),
        "depth": (_is_index, "an index"),
        "segments": (_is_set, "how many of the first segments, or a list of indices"),
        "examples": (_is_positive, "a whole number from 1 to 2^53 - 1"),
        "errors": (_is_whole, "a whole number from 0 to 2^53 - 1"),
        "cross_entropy": (_is_loss, "a number from 0 to 2^53 - 1"),
    },
}
_LISTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "layouts": (_is_layout, "tensors, or how many bytes they have"),
    "stage_sizes": (_is_whole, "a whole number from 0 to 2^53 - 1"),
}


def _check_schema(document: dict[str, Any], source: str) -> None:
    """Checks lists here, and shows the validator no more of them than their first entries."""
    shortened = dict(document)
    for name, (is_right, wanted) in _LISTS.items():
        if isinstance(document.get(name), list):
            _check_list(document[name], is_right, name, wanted, source)
            # A layout is a list too: `Layout.from_json` looks at it.
            shortened[name] = [1] * bool(document[name])
    for group, columns in _COLUMNS.items():
        if not isinstance(document.get(group), dict):
            continue
        shortened[group] = dict(document[group])
        lengths = {}
        for name, (is_right, wanted) in columns.items():
            column = document[group].get(name)
            if isinstance(column, list):
                _check_list(column, is_right, f"{group}/{name}", wanted, source)
                shortened[group][name] = column[:1]
                lengths[name] = len(column)
        if len({*lengths.values()}) > 1:
            raise ManifestError(
                f"{source}: the columns of {group} have {short(lengths)} entries; wanted equally "
                "many"
            )
    # The first alone: a list of numbers where texts are due has one error a number.
    error = next(_validator().iter_errors(shortened), None)
    if error is not None:
        where = "/".join(map(str, error.path)) or "the document"
        raise ManifestError(
            f"{source}: {where} is {short(error.instance)}, which breaks "
            f"{error.validator}={short(error.validator_value)} of manifest.schema.json"
        )
    pairs = len(document["ladder"]["name"]) * len(document["segments"]["unit"])
    if pairs > MAX_PAIRS:
        raise ManifestError(
            f"{source} has {pairs} pairs of a configuration and a segment; a manifest has at most "
            f"{MAX_PAIRS}: cut the model into fewer segments or configurations"
        )


def _check_list(
    values: list[Any], is_right: Callable[[Any], bool], where: str, wanted: str, source: str
) -> None:
    if len(values) > MAX_ENTRIES:
        raise ManifestError(
            f"{source}: {where} has {len(values)} entries; wanted at most {MAX_ENTRIES}"
        )
    for i, value in enumerate(values):
        if not is_right(value):
            raise ManifestError(f"{source}: {where}/{i} is {short(value)}; wanted {wanted}")


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(manifest_schema())
