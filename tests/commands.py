"""How tests run a command as a user would."""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType

from absl import app, flags, logging  # noqa: F401 - they define flags, which all commands have

ROOT = pathlib.Path(__file__).resolve().parent.parent


def xla_flags(devices: int) -> str:
    """Flags of XLA for tests: so many virtual CPU devices, and programs that compile quickly.

    Tests compile many small programs and run each a few times. Without optimisation that takes a
    quarter less of the processor's time; what the programs compute is the same but for rounding.
    """
    return (
        f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0 "
        "--xla_cpu_parallel_codegen_split_count=1"
    )


def command_environment(devices: int = 1) -> dict[str, str]:
    """The environment of a command that a user would run, with so many CPU devices."""
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(devices),
        "JAX_PLATFORMS": "cpu",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part
    )
    return environment


@contextlib.contextmanager
def command_alone(name: str) -> Iterator[ModuleType]:
    """Imports a command as a process of its own would: commands share the names of some flags."""
    module = f"accordion_jax.{name}"
    loaded, ours = sys.modules.pop(module, None), vars(flags.FLAGS)
    before = dict(ours)
    fresh, defined = flags.FlagValues(), flags.FLAGS.flags_by_module_dict()
    for each in [*defined.get("absl.app", ()), *defined.get("absl.logging", ())]:
        fresh[each.name] = each  # which all commands have
    try:
        ours.clear()
        ours.update(vars(fresh))
        yield importlib.import_module(module)
    finally:
        ours.clear()
        ours.update(before)
        sys.modules.pop(module, None)
        if loaded is not None:
            sys.modules[module] = loaded


def call_main(name: str, *arguments: object) -> None:
    """Calls a command in this process: its flags, then its `main`."""
    with command_alone(name) as command:
        command.main(flags.FLAGS([name, *map(str, arguments)]))
