"""Settings of every test: strict JAX, and eight virtual CPU devices."""

import os
import subprocess
import sys
import tempfile

from tests.commands import ROOT, command_environment, xla_flags

# Before JAX is imported: it reads them once.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
# The same small networks are compiled by many tests: once is enough. Each of pytest's workers has a
# folder of its own: JAX writes into it file by file, and another process may read half a file.
_CACHE = tempfile.TemporaryDirectory(prefix="accordion-compilations-")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A busy machine is no error: no test of ours fails by the clock. And the same code gives the same
# result: ACCORDION_EXPLORE=1 looks for new examples.
hypothesis.settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=not os.environ.get("ACCORDION_EXPLORE"),
)
hypothesis.settings.load_profile("ours")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that pytest's workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _enough_devices(request):
    """Skips what needs more devices than a GPU machine has; the virtual CPU devices are eight."""
    wanted = request.node.get_closest_marker("devices")
    if wanted and (there := jax.device_count()) < wanted.args[0]:
        pytest.skip(f"wants {wanted.args[0]} devices, and JAX has {there}")


@pytest.fixture
def run_command():
    """Runs ``python -m MODULE ARGUMENTS`` and returns the finished process, output as text."""

    def run(module: str, *arguments: object, devices: int = 1, timeout: float = 1200):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=command_environment(devices),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
