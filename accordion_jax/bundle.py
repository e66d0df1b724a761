"""Cuts a trained run into a bundle that can be delivered piece by piece.

  python -m accordion_jax.bundle --workdir=RUN --out=DIR [--bits=4,8] [--follows=MODEL_ID]

writes ``DIR/<model_id>/`` (see docs/bundle_format.md), and prints its id and sizes.

--bits says how many bits a weight has when it is sent: one number, or several that grow. With 4,8
each block is sent in 4 bits first, and later in the bits that make 8 of them. In fewer than 8 bits
batch norms have statistics of the rounded network, measured on training images. Each model that a
device may run is measured on the run's test split, so that the data set must be there. With 32 the
weights are sent as they are, and nothing is measured again but the statistics of a run that was
trained for few bits (config.train.bits).

A run that was trained within the first bits of a bundle (config.train.within_bits) sends what that
bundle sends first, to the byte, and refines it: --bits begins with those.

A search that is interrupted goes on where it stopped: the same command measures no set twice. What
it has is in a hidden file in DIR, which goes when the bundle is written.

A run that was swept with own statistics (config.sweep.own_statistics) becomes a bundle that has
them: each configuration with its own, and without.
"""

import contextlib
import functools
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from accordion_jax import data, evaluation
from accordion_jax.delivery.bundle.cutting import (
    bundle_parts,
    measured_ladder,
    own_piece,
    tree_of,
)
from accordion_jax.delivery.bundle.encoding import Measured, encoded_parts
from accordion_jax.delivery.bundle.encodings.segment import read
from accordion_jax.delivery.bundle.folding import fold_norms, fold_statistics
from accordion_jax.delivery.bundle.ordering import Rung, blockwise, passes, rungs_of, uniform
from accordion_jax.delivery.bundle.passes_kept import digest_of, kept
from accordion_jax.delivery.bundle.precision import (
    MANY_BITS,
    Chains,
    with_measured_norms,
)
from accordion_jax.delivery.bundle.reading import summary
from accordion_jax.delivery.bundle.searching import find_order, passes_of_search
from accordion_jax.delivery.bundle.variables import read_model, replaced
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.depth import Ladder, LookupTable, SkipMask
from accordion_jax.runs.config import changed, default_config, to_jsonable
from accordion_jax.system import command
from accordion_jax.system.progress import progress
from accordion_jax.training import (
    CheckpointError,
    Run,
    compiler_options,
    load_measured_run,
    make_experiment,
)
from accordion_jax.training.kept_statistics import read_own
from accordion_jax.training.statistics import as_measured, renewal

_log = logging.getLogger("accordion_jax")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished training run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of bundles to write into.", required=True)
_BITS = flags.DEFINE_list(
    "bits",
    ["4", "8"],
    "Bits a weight: 1 to 8, 16 or 32; or several that grow, as 4,8: blocks in 4 bits, and what "
    "makes 8 of them. 32 sends the weights as they are.",
)
_FOLLOWS = flags.DEFINE_string("follows", None, "model_id of the version that this replaces.")

# An order is found by differences between models on the same examples: more would not change it.
_ORDER_EXAMPLES = 5000


def main(argv: Sequence[str]) -> None:
    """Reads the run, writes the bundle, checks what was written, and prints a summary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    bits = _bits()
    command.show_log(logging.INFO)
    table = LookupTable.read(_WORKDIR.value)
    run = as_measured(load_measured_run(_WORKDIR.value, table))
    ladder = measured_ladder(run.ladder, table, run.model.block_names)
    own = read_own(_WORKDIR.value, run.variables, table.provenance)
    table = _in_short(table)
    parts = bundle_parts(
        run.variables,
        base_names=tuple(run.model.base_names),
        block_names=tuple(run.model.block_names),
        description=run.description,
        ladder=ladder,
        table=table,
        own=own,
    )
    passes_kept = None
    if bits != [32]:
        parts, passes_kept = _encoded(run, ladder, table, bits, own)
    bundle = write_bundle(_OUT.value, **parts, follows=_FOLLOWS.value)
    if passes_kept:
        passes_kept.unlink(missing_ok=True)
    print(summary(bundle))


def _in_short(table: LookupTable) -> LookupTable:
    """The table, without those fields of its config that are as in the default."""
    facts = table.provenance
    # Every device waits for a manifest.
    config = changed(facts["config"], to_jsonable(default_config()))
    return LookupTable(table.rows, {**facts, "config": config})


def _bits() -> list[int]:
    try:
        return [int(each) for each in _BITS.value]
    except ValueError as error:
        raise app.UsageError(f"--bits={','.join(_BITS.value)}; wanted numbers, as 4,8") from error


def _encoded(
    run: Run,
    ladder: Ladder,
    table: LookupTable,
    bits: Sequence[int],
    own: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Any], pathlib.Path]:
    """The arguments of `write_bundle` for a run in these bits, each model measured.

    The order is found with shared statistics, which are sent with the blocks. Also returns the file
    of what the search has measured, which is to go when the bundle is there.
    """
    block_names = tuple(run.model.block_names)
    chains = _chains(run, ladder, bits)
    facts: dict[str, Any] = {"bits": list(bits)}
    digest = digest_of(chains)
    path = pathlib.Path(_OUT.value) / f".search-{digest[:16]}.jsonl"
    order = blockwise(ladder, block_names, len(bits))
    if total := passes_of_search(chains):
        examples, split = _examples_of_the_order(run)
        facts["order"] = {"examples": len(examples), "split": split}
        with _passes("finding the order", total) as on_pass:
            measure = _measure(run, ladder.skip_masks, examples)
            belongs_to = {"network": digest, "data": run.config.data.name, **facts["order"]}

            def ask(steps: Mapping[str, int], masks: Sequence[SkipMask]) -> Sequence[Measured]:
                return measure(chains.variables(steps), masks)

            with kept(path, belongs_to, ask) as remembered:
                order = find_order(chains, ladder, block_names, remembered, on_pass)
    rungs = rungs_of(order, ladder, block_names)
    # A device that can pay for bits but not for operations goes another way.
    rungs += uniform(ladder, block_names, len(bits) - 1)
    parts = list(passes(rungs))
    statistics = {
        name: own_piece(name, fold_statistics(run.variables, trees), max(bits))
        for name, trees in own.items()
    }
    # Some are both on the path and of one number of bits.
    with_own = {r.name(bits): r for r in rungs if r.configuration.name in statistics}
    found: list[tuple[Rung, Measured]] = []
    found_own: list[tuple[Rung, Measured]] = []
    with _passes("measuring", len(parts) + len(with_own)) as on_pass:
        measured_on, examples = _measured_on(run), run.config.sweep.examples
        measure = _measure(run, ladder.skip_masks, measured_on, examples)
        for steps, together in parts:
            masks = [rung.configuration.skip_mask for rung in together]
            counted = measure(chains.variables(steps), masks)
            found += zip(together, counted, strict=True)
            on_pass()
        for name, piece in statistics.items():
            (mask,) = (each.skip_mask for each in ladder if each.name == name)
            measure = _measure(run, (mask,), measured_on, examples)
            # As a device reads them.
            tree = tree_of("", read(piece.content, piece.layout).arrays())
            for rung in with_own.values():
                if rung.configuration.name == name:
                    counted = measure(replaced(chains.variables(rung.steps), tree), [mask])
                    found_own.append((rung, counted[0]))
                    on_pass()
    arguments = encoded_parts(
        chains,
        order,
        found,
        description=run.description,
        table=table,
        facts=facts,
        own=found_own,
        statistics=statistics,
    )
    return arguments, path


def _chains(run: Run, ladder: Ladder, bits: Sequence[int]) -> Chains:
    """The segments in these bits, and few bits' own norms."""
    variables = run.variables
    how: dict[str, Any] = {
        "base_names": tuple(run.model.base_names),
        "block_names": tuple(run.model.block_names),
        "bits": bits,
    }
    if within := run.config.train.within_bits:
        if not variables.get("batch_stats"):
            raise ValueError(
                f"config.train.within_bits={within} is for networks with batch norms; this has none"
            )
        return _refining(run, bits, how)
    # Where a ladder is none of prefixes, a norm sees several things.
    few, one_input = min(bits) < MANY_BITS, ladder.has_prefixes_alone
    if not few or not variables.get("batch_stats") or not one_input:
        return Chains(fold_norms(variables), **how)
    renew = functools.partial(renewal(make_experiment(run.config)), run.model)
    _log.info("measuring on training images what the norms see of rounded weights")
    return with_measured_norms(variables, renew, **how)


def _refining(run: Run, bits: Sequence[int], how: Mapping[str, Any]) -> Chains:
    """The segments of the bundle that the run began with, and what the run adds to them.

    Raises:
      ValueError: the first bits are others, or what the run began with is no bundle; names both.
    """
    within, source = run.config.train.within_bits, run.config.train.start_from
    experiment = make_experiment(run.config, read_bundle=read_model)
    found, bundled = experiment.within, read_model(source)
    assert found is not None
    assert bundled is not None
    sent = bundled.sent.up_to(within)
    there = len(sent.bits)
    if tuple(bits[:there]) != sent.bits or len(bits) == there:
        first = ",".join(map(str, sent.bits))
        raise ValueError(
            f"--bits={','.join(map(str, bits))}: {_WORKDIR.value} was trained within the levels of "
            f"{within} bits of {source}, which sends {first} first; give --bits={first},8"
        )
    _log.info("measuring on training images what the norms see of rounded weights")
    renew = functools.partial(renewal(experiment), run.model)
    return with_measured_norms(run.variables, renew, sent=sent.pieces, sizes=found.sizes, **how)


@contextlib.contextmanager
def _passes(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar of passes over examples; yields what is to be called after each."""
    done = itertools.count(1)
    with progress(what, total, unit="pass") as bar:
        yield lambda: bar.update(next(done))


def _examples_of_the_order(run: Run) -> tuple[data.Dataset, str]:
    """Examples to find the order with, and of which split: held out, or of the training split.

    The test split is for what is said of each model afterwards.
    """
    config = run.config.data
    if config.holdout:
        split = "validation"
        found = data.load(config.name, split, data_dir=config.dir or None, holdout=config.holdout)
    else:
        split = "train"
        found = data.load(config.name, split, data_dir=config.dir or None)
    if len(found) > _ORDER_EXAMPLES:
        found = found.select(np.random.default_rng(0).permutation(len(found))[:_ORDER_EXAMPLES])
    return found, split


def _measured_on(run: Run) -> data.Dataset:
    """The split that the run was measured on."""
    config = run.config
    return data.load(
        config.data.name,
        config.sweep.split,
        data_dir=config.data.dir or None,
        holdout=config.data.holdout,
    )


def _measure(
    run: Run, skip_masks: tuple[SkipMask, ...], dataset: data.Dataset, examples: int = 0
) -> Callable[[Mapping[str, Any], Sequence[SkipMask]], Sequence[Measured]]:
    """One pass over examples, for any of these skip masks; 0 examples are all."""
    sweep = evaluation.Sweep(
        run.model,
        skip_masks,
        dataset,
        batch_size=run.config.sweep.batch_size,
        examples=examples,
        compiler_options=compiler_options(),
    )
    place = {mask: i for i, mask in enumerate(skip_masks)}

    def measure(variables: Mapping[str, Any], wanted: Sequence[SkipMask]) -> Sequence[Measured]:
        counts = sweep(data.replicate(dict(variables)))
        return [
            Measured(
                counts.examples,
                int(counts.errors[place[mask]]),
                float(counts.cross_entropy[place[mask]]),
            )
            for mask in wanted
        ]

    return measure


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError, CheckpointError), argv=argv)


if __name__ == "__main__":
    run()
