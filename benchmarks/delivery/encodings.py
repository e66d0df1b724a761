"""Bytes, error and speed of each encoding and refinement of a network's segments.

    python -m benchmarks.delivery.encodings [--run=FOLDER] [--fold]

Without a run, the weights are those of a ResNet-(6n+2) drawn as trained ones are: normal, each
channel of another size. Speeds are of one core, in processor time, so that what else runs beside it
counts little: megabytes a second of decoded float32, and megabits a second of what is sent, which
is to be above 1,000: a link of 1 Gbit/s.

Time on two CPU cores: a quarter of a minute for ResNet-20.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from accordion_jax.delivery.bundle.cutting import tensors_of_unit
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import (
    Encoded,
    encode,
    encodings_for,
    read,
    refine,
    write,
    write_refinement,
)
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.training import load_run
from benchmarks.options import DEPTH_N, JSON, REPEATS, RUN, run
from benchmarks.ours import make_experiment
from benchmarks.report import Report
from benchmarks.timing import Sample, clocked, interleaved
from benchmarks.work import Options

_FOLD = flags.DEFINE_bool("fold", False, "Fold batch norms first.")
_BITS = flags.DEFINE_list("bits", ["1", "2", "3", "4", "5", "6", "8", "16", "32"], "A weight.")
_REFINED = flags.DEFINE_list(
    "refined",
    ["1-8", "2-4", "2-8", "3-6", "4-5", "4-6", "4-8", "5-8", "6-8"],
    "Bits of refinements.",
)

Arrays = Mapping[str, np.ndarray]


def random_variables(depth_n: int) -> dict[str, Any]:
    """Returns variables of a ResNet: normal kernels, of another size a channel."""
    shapes = make_experiment(
        Options(depth_n, batch_size=128, examples=128), num_classes=10
    ).shapes.variables
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        sizes = np.exp(rng.normal(-3, 0.3, leaf.shape[-1:]))
        values = rng.normal(size=leaf.shape) * sizes if len(leaf.shape) > 1 else sizes
        return values.astype(np.float32)

    return jax.tree.map(draw, shapes)


def segments_of(variables: Mapping[str, Any]) -> dict[str, Arrays]:
    """Returns the arrays of each unit."""
    return {unit: tensors_of_unit(variables, unit) for unit in variables["params"]}


class Measured:
    """What the segments are in so many bits, and how long that takes."""

    def __init__(self, segments: Mapping[str, Arrays]):
        """Takes the arrays of all segments."""
        self.segments = segments
        self.weights = sum(a.size for arrays in segments.values() for a in arrays.values())
        self._layouts = {name: Layout.of(arrays) for name, arrays in segments.items()}

    def encode(self, bits: int, finer: Mapping[str, Encoded] | None = None) -> dict[str, Encoded]:
        """Returns all segments in so many bits, made from finer ones where there are some."""
        return {
            name: encode(arrays, encodings_for(arrays, bits), finer[name] if finer else None)
            for name, arrays in self.segments.items()
        }

    def encode_and_write(self, bits: int) -> dict[str, bytes]:
        """Returns the bytes of all segments."""
        return {name: write(encoded) for name, encoded in self.encode(bits).items()}

    def decode(self, contents: Mapping[str, bytes]) -> dict[str, Encoded]:
        """Reads all segments, and makes float32 of them."""
        held = {name: read(content, self._layouts[name]) for name, content in contents.items()}
        for encoded in held.values():
            encoded.arrays()
        return held

    def refine(
        self, held: Mapping[str, Encoded], contents: Mapping[str, bytes]
    ) -> dict[str, Encoded]:
        """Refines all segments, and makes float32 of them."""
        fine = {name: refine(held[name], content) for name, content in contents.items()}
        for encoded in fine.values():
            encoded.arrays()
        return fine

    def error(self, encoded: Mapping[str, Encoded]) -> float:
        """Returns the mean square error of the kernels, a channel's relative to its variance."""
        errors = []
        for name, arrays in self.segments.items():
            for path, after in encoded[name].arrays().items():
                if after.ndim > 1:
                    over = tuple(range(after.ndim - 1))
                    variance = np.maximum(arrays[path].var(axis=over), 1e-30)
                    errors.append(((after - arrays[path]) ** 2).mean(axis=over) / variance)
        return float(np.concatenate(errors).mean())


def size_of(contents: Mapping[str, bytes]) -> int:
    """Returns the bytes of all segments."""
    return sum(map(len, contents.values()))


def main() -> None:
    """Measures each number of bits by itself, then each refinement."""
    variables = load_run(RUN.value).variables if RUN.value else random_variables(DEPTH_N.value)
    measured = Measured(segments_of(fold_norms(variables) if _FOLD.value else variables))
    source = RUN.value or f"ResNet-{6 * DEPTH_N.value + 2}, random weights"
    title = f"{source}{', folded' if _FOLD.value else ''}: {measured.weights} numbers"
    with Report(title, JSON.value) as report:
        sizes = _alone(report, measured, [int(bits) for bits in _BITS.value])
        steps = [tuple(map(int, step.split("-"))) for step in _REFINED.value]
        _refinements(report, measured, steps, sizes)


def _alone(report: Report, measured: Measured, every: Sequence[int]) -> dict[int, int]:
    """Measures encodings, and returns bits -> bytes."""
    report.table(
        {"bits": ".0f", "bytes": ",.0f", "bits a number": ".3f", "error": ".2e"}
        | {"smallest segment": ",.0f", "largest": ",.0f"}
        | {"encode, MB/s": ".0f", "decode, MB/s": ".0f", "decode, Mbit/s": ".0f"}
    )
    sizes = {}
    for bits in every:
        encoded = measured.encode(bits)
        contents = measured.encode_and_write(bits)
        sizes[bits] = size_of(contents)
        seconds = _timed(
            functools.partial(measured.encode_and_write, bits),
            functools.partial(measured.decode, contents),
        )
        report.row(
            *(bits, sizes[bits], 8 * sizes[bits] / measured.weights, measured.error(encoded)),
            *(sorted(map(len, contents.values()))[i] for i in (0, -1)),
            *(each.rate(4 * measured.weights / 1e6) for each in seconds),
            seconds[1].rate(8 * sizes[bits] / 1e6),
        )
    return sizes


def _refinements(
    report: Report, measured: Measured, steps: Sequence[Sequence[int]], sizes: dict[int, int]
) -> None:
    report.table(
        {"bits": "", "base": ",.0f", "refinement": ",.0f", "more than at once, %": ".1f"}
        | {"error of the base": ".2e", "more than alone, %": ".1f"}
        | {"refine, MB/s": ".0f", "refine, Mbit/s": ".0f"}
    )
    for coarse_bits, fine_bits in steps:
        fine = measured.encode(fine_bits)
        coarse = measured.encode(coarse_bits, fine)
        base = {name: write(each) for name, each in coarse.items()}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in base.items()}
        added = {
            name: write_refinement(each, fine[name], digests[name]) for name, each in coarse.items()
        }
        held = measured.decode(base)
        both = size_of(base) + size_of(added)
        alone = sizes.get(fine_bits) or size_of(measured.encode_and_write(fine_bits))
        error, best = measured.error(coarse), measured.error(measured.encode(coarse_bits))
        (seconds,) = _timed(functools.partial(measured.refine, held, added))
        report.row(
            *(f"{coarse_bits} to {fine_bits}", size_of(base), size_of(added)),
            *(100 * (both / alone - 1), error, 100 * (error / best - 1)),
            seconds.rate(4 * measured.weights / 1e6),
            seconds.rate(8 * size_of(added) / 1e6),
        )


def _timed(*works: Callable[[], object]) -> list[Sample]:
    """Returns the processor's seconds of each."""
    runs = {str(i): clocked(work, time.process_time) for i, work in enumerate(works)}
    return list(interleaved(runs, REPEATS.value).values())


if __name__ == "__main__":
    run(main, depth_n=3)
