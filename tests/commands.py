"""How tests run a command as a user would."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command_environment(devices: int = 1) -> dict[str, str]:
    """The environment of a command that a user would run, with so many CPU devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part
    )
    return environment
