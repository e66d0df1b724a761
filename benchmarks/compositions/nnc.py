"""The plain network in NNC (ISO/IEC 15938-17); or, where there is no codec, a bound on its bytes.

NNC quantises each tensor uniformly with one step, and codes the levels with adaptive binary
arithmetic coding (DeepCABAC; Wiedemann et al. 2020, arXiv:1907.11900). The bound is the entropy of
each tensor's levels under their own histogram: what a coder without contexts could reach at best.
"""

import collections
import dataclasses
import functools
import json
import logging
import math
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from accordion_jax import models
from accordion_jax.delivery.bundle.folding import fold_norms
from benchmarks.compositions.forms import flatten, unflatten
from benchmarks.compositions.rows import PLAIN, Composition
from benchmarks.compositions.sending import Sent

_log = logging.getLogger("accordion_jax")

# Quantisation parameters: four more double the step.
QPS = (-36, -32, -28, -24, -20, -16)
_WORKER = pathlib.Path(__file__).parent / "nnc_worker.py"
_OIHW, _HWIO = (3, 2, 0, 1), (2, 3, 1, 0)
_CONSTANT = ("/scale", "/mean", "/var")  # of a folded norm


@dataclasses.dataclass(frozen=True)
class Coded:
    """What a codec made of arrays at one quantisation parameter.

    Attributes:
      size_bytes: of the stream.
      arrays: decoded.
      decode_s: processor's seconds of decoding, one a repeat; empty where there was no codec.
    """

    size_bytes: int
    arrays: dict[str, np.ndarray]
    decode_s: tuple[float, ...] = ()


def of_plain(
    model: models.Network, variables: Mapping[str, Any], python: str, which: str = PLAIN
) -> Iterator[Composition]:
    """Yields the network at each quantisation parameter.

    Args:
      model: of the variables.
      variables: not folded.
      python: that has `nncodec`; empty for the bound.
      which: what rows call the network.

    Raises:
      RuntimeError: the codec failed, when the first is made; says what it said.
    """
    folded = fold_norms(variables)
    flat = {f"params:{path}": np.asarray(x) for path, x in flatten(folded["params"]).items()}
    sent = sent_of(flat)
    name, note = "NNC", "nncodec, one stream"
    if not python:
        name = "entropy bound for NNC"
        note = "no codec: the zero-order entropy of uniformly quantised tensors, with no header"

    @functools.cache
    def coded() -> dict[int, Coded]:
        return code(sent, python) if python else {qp: _bound(sent, qp) for qp in QPS}

    def make(qp: int) -> list[Sent]:
        found = coded()[qp]
        params = {path.removeprefix("params:"): x for path, x in (flat | found.arrays).items()}
        return [Sent({**folded, "params": unflatten(params)}, found.size_bytes)]

    for qp in QPS:
        each = functools.partial(make, qp)
        yield Composition(f"{which} {name} qp {qp}", "NNC", model, each, [f"qp {qp}"], note)
        note = ""


def sent_of(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a folded network that a codec is given, of all by their paths."""
    return {path: x for path, x in flat.items() if not path.endswith(_CONSTANT)}


def code(sent: Mapping[str, np.ndarray], python: str, qps: Sequence[int] = QPS) -> dict[int, Coded]:
    """Runs the codec in its own process.

    Args:
      sent: arrays; kernels with their outputs last.
      python: that has `nncodec`.
      qps: quantisation parameters.

    Returns:
      Of each quantisation parameter.

    Raises:
      RuntimeError: it failed; says what it said.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        arrays = {path: _ordered(x, _OIHW) for path, x in sent.items()}
        safetensors.numpy.save_file(arrays, folder / "arrays.safetensors")
        finished = subprocess.run(
            [python, str(_WORKER), str(folder / "arrays.safetensors"), temporary, *map(str, qps)],
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            lines = (finished.stderr or finished.stdout).strip().splitlines() or ["nothing"]
            raise RuntimeError(
                f"{python} could not code with nncodec, and said: {lines[-1]}; install nncodec "
                "there, or leave --nnc_python out for a bound"
            )
        found = json.loads((folder / "found.json").read_text())
        coded = {}
        for qp, facts in found.items():
            decoded = safetensors.numpy.load_file(folder / f"{qp}.safetensors")
            arrays = {path: _ordered(x, _HWIO) for path, x in decoded.items()}
            coded[int(qp)] = Coded(facts["bytes"], arrays, tuple(facts["decode_s"]))
            _log.info("NNC at qp %s: decoded in %.2f s", qp, statistics.median(facts["decode_s"]))
        return coded


def _ordered(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Kernels in another order; a dense kernel transposed, as PyTorch has it."""
    if x.ndim == 2:
        return np.ascontiguousarray(x.T)
    return np.ascontiguousarray(x.transpose(axes)) if x.ndim == 4 else x


def _bound(sent: Mapping[str, np.ndarray], qp: int) -> Coded:
    """Bytes of the entropy of the levels, and what they stand for; biases are float16."""
    bits, arrays = 0.0, {}
    step = step_of(qp)
    for path, x in sent.items():
        if x.ndim < 2:
            bits += 16 * x.size
            arrays[path] = x.astype(np.float16).astype(np.float32)
            continue
        levels = np.rint(x / step)
        arrays[path] = (levels * step).astype(np.float32)
        bits += entropy_bits(levels) + 32
    return Coded(math.ceil(bits / 8), arrays)


def step_of(qp: int, density: int = 2) -> float:
    """Returns the quantisation step that the standard gives a parameter of some density."""
    multiplier = (1 << density) + (qp & ((1 << density) - 1))
    return multiplier * 2.0 ** ((qp >> density) - density)


def entropy_bits(levels: np.ndarray) -> float:
    """Returns the entropy of all levels of a tensor under their own histogram, in bits."""
    counts = np.array(list(collections.Counter(levels.reshape(-1).tolist()).values()))
    return float(-(counts * np.log2(counts / counts.sum())).sum())
