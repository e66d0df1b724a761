"""Ways to run a model on the device, one a file; each is loaded when a manifest asks for it.

A new one is a file here with a class that follows `contract.Model`, and an entry in ``RUNTIMES``.
`runtime.Runtime` does the rest: it loads, compiles and swaps in the background, and steps down.
Fetching needs none of them.
"""

import importlib
from typing import NamedTuple

from accordion_jax import tasks
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.errors import ModelError
from accordion_jax.delivery.runtimes.contract import Model


class Entry(NamedTuple):
    """Where a way to run a model is found.

    Attributes:
      path: module and class, with dots.
      extra: of accordion_jax that installs the packages it needs.
    """

    path: str
    extra: str


# What a manifest calls it -> where it is.
RUNTIMES = {
    "networks": Entry("accordion_jax.delivery.runtimes.networks.Network", "device-jax"),
    "trees": Entry("accordion_jax.delivery.runtimes.trees.Trees", "device"),
}
# Manifests from before there was a choice name none.
_DEFAULT = "networks"


def name_of(manifest: Manifest) -> str:
    """Returns what a manifest calls the runtime it asks for; it may not be known here."""
    return manifest.model.get("runtime", _DEFAULT)


def find(manifest: Manifest) -> type[Model]:
    """Returns the class that runs a manifest's model; loads its module and what that imports.

    Raises:
      ModelError: the manifest names a runtime that is not known, or one that needs a package which
        is not installed; says which extra to install.
    """
    name = name_of(manifest)
    entry = RUNTIMES.get(name) if isinstance(name, str) else None
    if entry is None:
        raise ModelError(
            f"the manifest asks for the runtime {name!a}, which is not known here; known: "
            f"{', '.join(sorted(RUNTIMES))}. Upgrade accordion_jax, or fetch a model for one of "
            "these"
        )
    module, _, attribute = entry.path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if error.name is not None and error.name.startswith("accordion_jax"):
            raise
        raise ModelError(
            f"the runtime {name!r} cannot be loaded ({error}); install what it needs: "
            f"pip install 'accordion_jax[{entry.extra}]'"
        ) from error


def make(manifest: Manifest) -> Model:
    """Returns the model of a manifest, ready to be given its segments.

    Raises:
      ModelError: as `find`; or the kind of the input is not known, or not one that the runtime
        takes; or the description makes no model.
    """
    cls = find(manifest)
    try:
        task = tasks.from_description(manifest.model.get("input", {}))
        if cls.kinds is not None and task.kind not in cls.kinds:
            raise ModelError(
                f"{cls.__name__} does not run models whose input is of kind {task.kind!r}; it "
                f"takes {', '.join(sorted(cls.kinds))}. Write the bundle for another runtime"
            )
        return cls(manifest, task)
    except ModelError:
        raise
    # Only the digest vouches for a description: any value may have any type.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"no model can be made of the manifest's description: {_in_words(error)}. Upgrade "
            "accordion_jax, or write the bundle again"
        ) from error


def _in_words(error: Exception) -> str:
    # A KeyError's own text is the key alone.
    return str(error) if isinstance(error, ValueError) else repr(error)


__all__ = ["RUNTIMES", "Entry", "Model", "find", "make", "name_of"]
