"""The rooms, and who may import whom: read off the source, and off what is really loaded."""

import ast
import collections
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "accordion_jax"

# Room -> the rooms that it may import. A new room needs a line here, and a reason in BUILD_NOTES.md
# for each arrow.
ARROWS = {
    "system": set(),
    "depth": {"system"},
    "tasks": {"depth"},
    "models": {"depth"},
    "data": {"tasks", "system"},
    "runs": {"depth", "system"},
    "training": {"depth", "tasks", "models", "data", "runs", "system"},
    "evaluation": {"depth", "tasks", "models", "data", "runs", "system"},
    "delivery": {"depth", "tasks", "system"},
}
# Inside delivery likewise; all of its sub-rooms may import delivery/errors.py.
INNER_ARROWS = {
    "bundle": set(),
    "planner": {"bundle"},
    "links": {"bundle"},
    "trust": {"bundle"},
    "endpoint": {"bundle", "planner", "trust"},
    "device": {"bundle", "planner", "links", "trust"},
    "runtimes": {"bundle", "planner", "links", "device"},
}
# All that a device needs which fetches, keeps and replays models and has no JAX: the packages of
# the extra `device`, and those that pictures alone, or signatures alone, need.
ON_A_DEVICE = {"absl", "filelock", "httpx", "jsonschema", "numpy", "safetensors", "tqdm"}
DEVICE_ALONE = {
    "delivery/links/picture.py": {"matplotlib"},
    "delivery/links/charts.py": {"matplotlib"},
    "delivery/trust/ed25519.py": {"cryptography"},
}
ON_A_DEVICE_ROOMS = ("bundle", "device", "links", "trust")

# A device that runs a network needs it; one that only fetches does not.
EXCEPTIONS = {"delivery/runtimes/networks.py": {"models"}}
NEED_JAX = {"delivery/runtimes/networks.py", "tasks/augmentation.py"}

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
FRONT_DOORS = {pathlib.Path(file).stem for file in FILES if "/" not in file} - {"__init__"}


def imports_of(file):
    """Full names of what a file imports, anywhere in it: inside functions too."""
    here = ["accordion_jax", *pathlib.PurePosixPath(file).parent.parts]
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            # `from accordion_jax import data` imports accordion_jax.data.
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def ours(file):
    """Rooms and front doors that a file imports."""
    parts = [name.split(".") for name in imports_of(file)]
    return {part[1] for part in parts if part[0] == "accordion_jax" and len(part) > 1}


def outside(file):
    """Top-level packages of others that a file imports."""
    return {name.split(".")[0] for name in imports_of(file)} - {"accordion_jax"}


def room_of(file):
    return file.split("/")[0]


IN_ROOMS = [file for file in FILES if "/" in file]


def test_the_reader_of_imports_sees_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "file.py").write_text(
        "import jax.numpy as jnp, accordion_jax.one\n"
        "from accordion_jax import two\n"
        "from accordion_jax.three.deep import thing\n"
        "from . import sibling\n"
        "from .. import four\n"
        "from ..five import thing\n"
        "def function():\n    from accordion_jax.six import thing\n"
    )
    assert ours("room/file.py") == {"one", "two", "three", "room", "four", "five", "six"}
    assert outside("room/file.py") == {"jax"}


def test_every_room_has_its_arrows():
    assert {"depth/ladder.py", "models/resnet.py", "evaluation/sweep.py"} <= set(IN_ROOMS)
    assert {room_of(file) for file in IN_ROOMS} <= ARROWS.keys()


@pytest.mark.parametrize("file", IN_ROOMS)
def test_a_room_imports_only_those_below_it(file):
    room = room_of(file)
    allowed = ARROWS[room] | EXCEPTIONS.get(file, set()) | {room}
    assert ours(file) <= allowed, f"{file} imports more than {sorted(allowed)}"


def test_arrows_point_one_way():
    seen = []
    waiting = {room: set(below) for room, below in ARROWS.items()}
    while waiting:
        free = [room for room, below in waiting.items() if below <= set(seen)]
        assert free, f"a circle among {sorted(waiting)}"
        seen += free
        waiting = {room: below for room, below in waiting.items() if room not in free}


@pytest.mark.parametrize("file", FILES)
def test_nothing_imports_a_front_door(file):
    assert not ours(file) & FRONT_DOORS


def test_the_package_itself_imports_nothing():
    # Importing any room runs it first.
    assert not imports_of("__init__.py")


def inner_room(name):
    """The sub-room of delivery that a file or module is of; None for errors and the package."""
    room = name.removeprefix("accordion_jax.delivery.").split(".")[0]
    return room if room in INNER_ARROWS else None


@pytest.mark.parametrize("file", [file for file in IN_ROOMS if room_of(file) == "delivery"])
def test_a_sub_room_of_delivery_imports_only_those_below_it(file):
    inside = file.removeprefix("delivery/").removesuffix(".py").replace("/", ".")
    room = inner_room(f"accordion_jax.delivery.{inside}")
    assert room or inside in ("__init__", "errors"), f"{file} is in no sub-room; INNER_ARROWS"
    found = {
        inner_room(name) for name in imports_of(file) if name.startswith("accordion_jax.delivery.")
    } - {None, room}
    allowed = INNER_ARROWS[room] if room else set()
    assert found <= allowed, f"{file} imports {sorted(found)}; allowed: {sorted(allowed)}"


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in FILES
        if file.startswith(tuple(f"delivery/{room}/" for room in ON_A_DEVICE_ROOMS))
        or file in ("delivery/planner.py", "delivery/errors.py")
        or file in ("fetch.py", "replay.py", "trust.py")
        or room_of(file) in ("depth", "system")
    ],
)
def test_a_device_needs_only_the_packages_of_its_extra(file):
    allowed = ON_A_DEVICE | DEVICE_ALONE.get(file, set()) | set(sys.stdlib_module_names)
    assert outside(file) <= allowed


WITHOUT_JAX = ("system", "depth", "tasks", "runs", "delivery")


def without_jax(file):
    return room_of(file) in WITHOUT_JAX and file not in NEED_JAX


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_loading_what_a_device_without_jax_needs_loads_none(room):
    files = [file for file in IN_ROOMS if room_of(file) == room and without_jax(file)]
    if not files:
        pytest.skip(f"there is no room {room} yet")
    modules = ["accordion_jax." + file.removesuffix(".py").replace("/", ".") for file in files]
    modules = [module.removesuffix(".__init__") for module in modules]
    program = (
        "import importlib, sys\n"
        f"for module in {modules}: importlib.import_module(module)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(finished.stdout.split())
    assert "accordion_jax" in loaded
    assert not loaded & (JAX | {"matplotlib", "sklearn", "cryptography"})


@pytest.mark.parametrize("file", FILES)
def test_nothing_needs_tensorflow_or_pickle(file):
    assert not outside(file) & {"tensorflow", "clu", "pickle", "cloudpickle", "dill"}


def test_signatures_are_made_and_checked_in_one_file():
    assert [file for file in FILES if "cryptography" in outside(file)] == [
        "delivery/trust/ed25519.py"
    ]


def test_checkpoints_are_written_in_one_file():
    assert [file for file in FILES if "orbax" in outside(file)] == ["training/checkpoints.py"]


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) != "models"])
def test_only_the_models_name_a_family_of_networks(file):
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "ResNet" not in names


def test_no_two_test_files_have_one_name():
    """Pytest imports them by their name alone, and refuses the second."""
    files = pathlib.Path(__file__).parent.rglob("test_*.py")
    names = collections.Counter(path.name for path in files)
    assert [name for name, count in names.items() if count > 1] == []
