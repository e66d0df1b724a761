"""Examples as a person keeps them: read from a file with checks, counted, cut into batches."""

import math
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from accordion_jax.tasks import Spec, Task

_MOST_RANDOM_BYTES = 10**9

_DAMAGED = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def count(inputs: Any) -> int:
    """Returns how many examples there are in inputs: [examples, ...], or a tree of such arrays."""
    while isinstance(inputs, Mapping | tuple | list):
        inputs = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs[0]
    return len(inputs)


def part(inputs: Any, start: int, stop: int) -> Any:
    """Returns the examples from `start` up to `stop`: a tree like `inputs`."""
    if isinstance(inputs, Mapping):
        return {name: part(each, start, stop) for name, each in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(part(each, start, stop) for each in inputs)
    return inputs[start:stop]


def share_wrong(task: Task, outputs: np.ndarray, targets: np.ndarray) -> float:
    """Returns the share of wrong answers, 0 to 1; an example may have several answers.

    Args:
      task: says which answers are wrong.
      outputs: [n, ..., k], of a model.
      targets: [n, ...] integers.

    Raises:
      ValueError: there is not one target an answer; names both shapes.
    """
    # Shapes that are not equal would be broadcast: each answer compared with all targets.
    if targets.shape != outputs.shape[:-1]:
        raise ValueError(
            f"{task.target_name} have the shape {targets.shape}; wanted {outputs.shape[:-1]}, one "
            "an answer of the model"
        )
    if not targets.size:
        raise ValueError(f"no {task.target_name} are given, so no share of them is wrong")
    return float(np.mean(task.wrong(outputs, targets)))


def read_examples(source: str, task: Task) -> tuple[Any, np.ndarray | None]:
    """Returns (inputs, targets) from a file of arrays; targets are None where it has none.

    Args:
      source: FILE.npy with the inputs, or FILE.npz with arrays named as the task names them:
        ``images`` and ``labels``, say. Where an example is several arrays, by their own names.
      task: that the arrays must be of.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged or pickled, an array is missing, or one is not what the task wants;
        says what to do.
    """
    names = list(task.inputs) if isinstance(task.inputs, Mapping) else [task.input_name]
    arrays = _load(source, [*names, task.target_name], names[0])
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(
            f"{source} has the arrays {sorted(arrays)}; wanted {missing[0]!r}, and maybe "
            f"{task.target_name!r}"
        )
    inputs: Any = {name: arrays[name] for name in names}
    if not isinstance(task.inputs, Mapping):
        inputs = inputs[task.input_name]
    _check_inputs(source, task, inputs)
    targets = arrays.get(task.target_name)
    if targets is not None:
        _check_targets(source, task, targets, count(inputs))
    return inputs, targets


def random_examples(task: Task, number: int) -> Any:
    """Returns inputs drawn at random, the same each time: a tree like ``task.inputs``.

    Bytes are uniform, floats standard normal; other integers are 0 or 1, which each vocabulary has.

    Raises:
      ValueError: they would take more than a gigabyte.
    """
    rng = np.random.default_rng(0)

    def draw(spec: Any) -> Any:
        if isinstance(spec, Mapping):
            return {name: draw(each) for name, each in spec.items()}
        if isinstance(spec, tuple | list) and not isinstance(spec, Spec):
            return type(spec)(draw(each) for each in spec)
        shape, dtype = (number, *spec.shape), np.dtype(spec.dtype)
        size_bytes = math.prod(shape) * dtype.itemsize
        if size_bytes > _MOST_RANDOM_BYTES:
            raise ValueError(
                f"{number} {task.example_name}s of the model take more than the "
                f"{_MOST_RANDOM_BYTES} bytes that are drawn at random: give a file of some"
            )
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        return rng.integers(0, 256 if dtype == np.uint8 else 2, shape, dtype=dtype)

    return draw(task.inputs)


def _load(source: str, wanted: list[str], only: str) -> dict[str, np.ndarray]:
    """Returns the wanted arrays of a file by name; the one of FILE.npy is `only`."""
    arrays = {}
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with pathlib.Path(source).open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {only: loaded}
            with loaded:
                for name in loaded.files:
                    # The others may be large, or not ours to judge.
                    arrays[name] = loaded[name] if name in wanted else np.empty(0)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise ValueError(
            f"{source} cannot be read as arrays ({error}): it is cut short, damaged or pickled. "
            f"Write it again: numpy.savez(FILE, {', '.join(f'{name}=...' for name in wanted)})"
        ) from error
    return arrays


def _check_inputs(source: str, task: Task, inputs: Any) -> None:
    arrays = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    if any(array.ndim == 0 for array in arrays):
        raise ValueError(f"{source}: {task.input_name} are one number; wanted one row an example")
    if len({len(array) for array in arrays}) > 1 or not count(inputs):
        raise ValueError(
            f"{source} has {' and '.join(str(len(array)) for array in arrays)} examples; wanted at "
            "least one, and as many in each array"
        )
    try:
        task.check(inputs)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _check_targets(source: str, task: Task, targets: np.ndarray, examples: int) -> None:
    name = task.target_name
    if targets.dtype.kind not in "iu":
        raise ValueError(
            f"{source}: {name} are {targets.dtype}; wanted integers, the number of the right "
            f"class. Convert them: {name}.astype('int64')"
        )
    if targets.ndim == 2 and targets.shape[1] == 1:
        raise ValueError(
            f"{source}: {name} have the shape {targets.shape}; wanted ({examples},). Take the one "
            f"column: {name}[:, 0]"
        )
    if targets.ndim == 0 or len(targets) != examples:
        raise ValueError(
            f"{source}: {name} have the shape {targets.shape} for {examples} "
            f"{task.example_name}s; wanted as many"
        )
