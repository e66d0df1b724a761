"""Configs on a disk: written by any version, read back, and compared with what is asked for now."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from accordion_jax.runs.config import (
    MOVED,
    OPEN,
    OPERATIONAL,
    default_config,
    flatten,
    is_open,
    to_jsonable,
    validate,
)

# Fields of a section that belong to no one in particular, or came later than their owner's others.
_SHARED = {
    "objective": (
        *("name", "distillation", "temperature", "balanced"),
        *("deepest_weight", "draws", "rate", "floor", "references"),
    ),
    "policy": ("name", "seed", "depth", "path"),
    "data": ("name", "dir", "holdout"),
    "optimizer": (
        *("name", "arguments", "learning_rate", "schedule"),
        *("decay_epochs", "decay_factor", "warmup_epochs"),
    ),
}

# Arguments that a family has got since; what was written before lacks them.
_LATER = {"resnet": {"own_heads": False}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns what differs between two experiments, as ``field: old -> new``, operational aside.

    Args:
      old: of the run in a workdir, as nested JSON-able values. A field that it lacks, as written
        by a version that did not know it, has its default.
      new: as asked for now.
    """
    flat_old, flat_new = upgraded(old), flatten(new)
    names = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"config.{name}: {flat_old.get(name, '(absent)')!r} -> {flat_new.get(name, '(absent)')!r}"
        for name in names
        if name.split(".")[0] not in OPERATIONAL and flat_old.get(name) != flat_new.get(name)
    ]


def refuse_another(folder: str | os.PathLike, differing: Sequence[str], flag: str) -> None:
    """Refuses a folder whose run is of another experiment than the one that is asked for.

    Args:
      folder: of the run.
      differing: in what, as `differences` gives it.
      flag: that chooses the folder, such as ``--workdir``.

    Raises:
      ValueError: something differs; names it.
    """
    if differing:
        raise ValueError(
            f"{folder} holds a run of another experiment; it differs in\n  "
            + "\n  ".join(differing)
            + f"\nUse the old values, or another {flag}."
        )


def moved_fields(arguments: Iterable[str]) -> list[str]:
    """Returns what to say of flags that set fields of earlier versions, in words.

    Args:
      arguments: of a command line, such as ``--config.model.stage_sizes=(3,3,3)``.
    """
    names = (each.partition("=")[0].removeprefix("--config.") for each in arguments)
    return [f"config.{name} is now config.{MOVED[name]}" for name in names if name in MOVED]


def upgraded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config of any version, flat, as this one names them.

    Args:
      document: nested JSON-able values. A field that it lacks, as written by a version that did not
        know it, has its default.
    """
    given = flatten(document)
    fields = {MOVED.get(name, name): value for name, value in given.items()}
    # Fields that only newer versions write have their default; of an open section, which holds what
    # its owner needs, only those that every owner has.
    for name, value in flatten(to_jsonable(default_config())).items():
        section, _, field = name.rpartition(".")
        before_names = section == "policy" and "policy.name" not in given
        if not is_open(name) or field in _SHARED.get(section, ()) or before_names:
            fields.setdefault(name, value)
    for name, value in _LATER.get(fields["model.family"], {}).items():
        fields.setdefault(f"model.arguments.{name}", value)
    if "policy.name" not in given and fields["policy.probabilities"]:
        fields["policy.name"] = "listed"
    return fields


def from_jsonable(document: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that `to_jsonable` wrote, of this version or an earlier one.

    Raises:
      ValueError: a field is unknown to this version, or has a value that it refuses; names it.
    """
    config = ml_collections.ConfigDict()
    for name, value in upgraded(document).items():
        *sections, field = name.split(".")
        section = config
        for each in sections:
            if each not in section:
                section[each] = ml_collections.ConfigDict()
            section = section[each]
        section[field] = _tuples(value)
    for section in OPEN:  # which may be empty
        parent, _, name = section.rpartition(".")
        if name not in (holder := config[parent] if parent else config):
            holder[name] = ml_collections.ConfigDict()
    validate(config)
    return config


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
