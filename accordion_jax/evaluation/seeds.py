"""Which runs belong together: those of one experiment that differ only in seed."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from accordion_jax.depth import LookupTable
from accordion_jax.runs.stored_config import upgraded

# Fields of a config that say how and where a run was carried out and swept, not what was measured.
# Runs whose depths differ fall into one group on purpose: averaging them says what is wrong, where
# two curves of one experiment would not.
_MAY_DIFFER = (
    "seed",
    "run",
    "data.dir",
    "sweep.batch_size",
    "sweep.bits_per_parameter",
    "sweep.depths",
)


def _what_was_measured(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of any version without the fields that may differ between the seeds of one run."""
    if not config:
        return {}
    fields = upgraded(config)
    if (fields.get("scheme"), fields.get("policy.name")) == ("resnet", "full_or_uniform"):
        fields.pop("policy.full_probability", None)  # it trains the full model alone
    return {
        name: value
        for name, value in fields.items()
        if not any(f"{name}.".startswith(f"{each}.") for each in _MAY_DIFFER)
    }


def error_name(tables: Sequence[LookupTable]) -> str:
    """Returns what the error of all tables is called; "top-1 error" where none says it.

    Raises:
      ValueError: two tables measure different things; names both.
    """
    names = [str(table.provenance.get("error_name", "top-1 error")) for table in tables]
    for table, name in zip(tables, names, strict=True):
        if name != names[0]:
            raise ValueError(
                f"{tables[0].provenance.get('name', 'a run')} measures the {names[0]}, "
                f"{table.provenance.get('name', 'another')} the {name}; draw them apart"
            )
    return names[0]


def group_seeds(tables: Sequence[LookupTable]) -> dict[str, list[LookupTable]]:
    """Returns the tables by label, those together that differ only in seed.

    Raises:
      ValueError: two tables are of the same experiment and seed; names both.
    """
    groups: dict[str, list[LookupTable]] = {}
    labels: dict[str, str] = {}
    for table in tables:
        facts = table.provenance
        experiment = _what_was_measured(facts.get("config", {}))
        key = json.dumps(
            [facts.get(name) for name in ("name", "dataset", "split")] + [experiment],
            sort_keys=True,
        )
        label = f"{facts.get('name', 'run')} on {facts.get('dataset', '?')}"
        if key not in labels:
            taken = sum(each.split(" #")[0] == label for each in labels.values())
            labels[key] = f"{label} #{taken + 1}" if taken else label
        group = groups.setdefault(labels[key], [])
        if any(each.provenance.get("seed") == facts.get("seed") for each in group):
            raise ValueError(
                f"{label}: seed {facts.get('seed')} was given twice; give each run once"
            )
        group.append(table)
    return groups


def without_common(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Returns what labels have in common, as a title, and what is left of each.

    "figure_resnet20_resnet on cifar10" and "figure_resnet20_coml-05 on cifar10" are "resnet" and
    "coml-05" of "figure_resnet20 on cifar10". A single label is its own title and is left whole.

    Args:
      labels: as `group_seeds` gives them, one or more.
    """
    pairs = [label.rpartition(" on ")[::2] for label in labels]
    datasets = {dataset.split(" #")[0] for _, dataset in pairs}
    if len(labels) == 1 or len(datasets) > 1:
        return (labels[0] if len(labels) == 1 else ""), list(labels)
    (dataset,) = datasets
    names = [name for name, _ in pairs]
    prefix = "".join(each[0] for each in itertools.takewhile(_equal, zip(*names, strict=False)))
    prefix = prefix.rpartition("_")[0]
    cut = len(prefix) + 1 if prefix else 0
    left = [f"{name[cut:]}{at.removeprefix(dataset)}" for name, at in pairs]
    return (f"{prefix} on {dataset}" if prefix else dataset), left


def _equal(letters: Sequence[str]) -> bool:
    return len(set(letters)) == 1
