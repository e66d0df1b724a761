"""Each role's dependencies: installed alone in a fresh environment, they are enough, and small.

What an environment weighs is printed: ``python -m pytest tests/test_extras.py -s`` shows it.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

import pytest

from tests.commands import ROOT
from tests.test_architecture import FILES, NEED_JAX

pytestmark = pytest.mark.slow

HANG_S = 900.0


@dataclasses.dataclass(frozen=True)
class Role:
    """What an extra is for.

    Attributes:
      commands: that it runs.
      rooms: folders or files of the package, all of which it loads; those that need JAX only if it
        has JAX.
      jax: whether it has JAX.
      most_mb: 10^6 bytes that its environment may weigh; None: no bound. Where there is one, byte
        code counts, as whoever installs it gets it.
    """

    commands: tuple[str, ...]
    rooms: tuple[str, ...]
    jax: bool
    most_mb: float | None = None


SHARED = (
    *("system", "depth", "tasks"),
    *("delivery/planner.py", "delivery/bundle", "delivery/trust"),
)
ON_DEVICE = (*SHARED, "delivery/device", "delivery/links", "delivery/runtimes")
ROLES = {
    "device": Role(("fetch", "replay"), ON_DEVICE, jax=False, most_mb=90),
    "serve": Role(("serve",), (*SHARED, "delivery/endpoint"), jax=False, most_mb=95),
    "device-jax": Role(("fetch", "replay"), (*ON_DEVICE, "models"), jax=True),
    # What signs, on a machine of its own; a device that pins a key adds it to its extra.
    "trust": Role(("trust",), ("system", "delivery/trust"), jax=False, most_mb=105),
    "train": Role(
        ("train", "grid", "report", "bundle", "policy"),
        (*SHARED, "models", "data", "runs", "training", "evaluation"),
        jax=True,
    ),
}

# Loads modules, and says what else was loaded and what is installed.
_LOADER = """
import importlib, importlib.metadata, json, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
installed = {found.name.lower() for found in importlib.metadata.distributions()}
print(json.dumps({"file": sys.modules["accordion_jax"].__file__, "installed": sorted(installed)}))
"""


def pip(*arguments, check=True):
    return subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=check,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package, built from this checkout; what makes a build leaves nothing in it."""
    folder = tmp_path_factory.mktemp("wheel")
    found = pip("download", "--quiet", "--no-deps", f"--dest={folder}", "filelock", check=False)
    if found.returncode:
        pytest.skip(f"no package index answers: {found.stderr.strip().splitlines()[-1]}")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "accordion_jax", source / "accordion_jax")
    pip("wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", source)
    (built,) = folder.glob("accordion_jax-*.whl")
    return built


def modules_of(role):
    """Names of the modules of a role's rooms."""
    files = [
        file
        for file in FILES
        if any(file == room or file.startswith(f"{room}/") for room in role.rooms)
        and (role.jax or file not in NEED_JAX)
    ]
    names = ["accordion_jax." + file.removesuffix(".py").replace("/", ".") for file in files]
    return [name.removesuffix(".__init__") for name in names]


def megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


@pytest.mark.parametrize("name", ROLES)
def test_an_extra_alone_is_enough_for_its_role(wheel, name):
    role = ROLES[name]
    # Not pytest's folder: it keeps the last three, and one of these weighs a gigabyte.
    with tempfile.TemporaryDirectory(prefix=f"accordion-{name}-") as folder:
        environment = pathlib.Path(folder)
        venv.create(environment)  # without pip and setuptools, so that neither counts
        python = environment / "bin" / "python"
        byte_code = "--no-compile" if role.most_mb is None else "--compile"
        pip("--python", python, "install", "--quiet", byte_code, f"{wheel}[{name}]")
        (packages,) = environment.glob("lib/python*/site-packages")
        size = megabytes(packages)

        def run(*command):
            finished = subprocess.run(
                list(map(str, command)),
                cwd=environment,  # so that nothing of the checkout is loaded
                env={key: os.environ[key] for key in os.environ if key != "PYTHONPATH"},
                capture_output=True,
                text=True,
                timeout=HANG_S,
                check=False,
            )
            assert finished.returncode == 0, f"{command}: {finished.stderr}"
            return finished.stdout

        modules = modules_of(role)
        assert len(modules) > len(role.rooms)
        found = json.loads(run(python, "-I", "-c", _LOADER, *modules))
        assert pathlib.Path(found["file"]).is_relative_to(packages)
        assert ("jax" in found["installed"]) == ("jaxlib" in found["installed"]) == role.jax
        for each in role.commands:
            assert "flags:" in run(environment / "bin" / f"accordion-{each}", "--help")
    print(f"\n{name}: {size:.0f} MB in {len(found['installed'])} packages")
    assert role.most_mb is None or size < role.most_mb
