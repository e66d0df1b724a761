"""What becomes of a sweep: a number while training, and the table with its picture at the end."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from accordion_jax import data
from accordion_jax.depth import Ladder, LookupTable, Policy
from accordion_jax.evaluation.pictures import average_seeds, draw_error_vs_size
from accordion_jax.evaluation.seeds import error_name
from accordion_jax.evaluation.sweep import Sweep
from accordion_jax.models import Network

# How many of the configurations that training draws have their error among the metrics.
_SHOWN = 5


def make_evaluate(
    model: Network,
    ladder: Ladder,
    policy: Policy,
    dataset: data.Dataset,
    *,
    batch_size: int,
    examples: int = 0,
    compiler_options: dict[str, str | bool] | None = None,
) -> Callable[[dict[str, Any]], dict[str, float]]:
    """Returns an evaluation for the middle of training, of all configurations that it may draw.

    Its "error", by which a best checkpoint can be chosen, is the policy's expectation.

    Args:
      model: Linen module.
      ladder: of the scheme.
      policy: over the ladder.
      dataset: to measure on.
      batch_size: a device.
      examples: only the first so many; 0 is all.
      compiler_options: of XLA.

    Returns:
      From replicated variables to {"error": ..., "error_depth_<blocks>": ...}, the latter of a few;
      it compiles at its first call.
    """
    drawn = sorted(policy.drawn)
    count = min(_SHOWN, len(drawn))
    shown = sorted({round(i * (len(drawn) - 1) / max(count - 1, 1)) for i in range(count)})
    sweep: Sweep | None = None

    def evaluate(variables: dict[str, Any]) -> dict[str, float]:
        nonlocal sweep
        sweep = sweep or Sweep(
            model,
            tuple(ladder[index].skip_mask for index in drawn),
            dataset,
            batch_size=batch_size,
            examples=examples,
            compiler_options=compiler_options,
        )
        counts = sweep(variables)
        errors = counts.errors / counts.examples
        of_all = [0.0] * len(ladder)
        for index, error in zip(drawn, errors, strict=True):
            of_all[index] = float(error)
        by_depth = {f"error_depth_{ladder[drawn[i]].depth}": float(errors[i]) for i in shown}
        return {"error": policy.expectation(of_all), **by_depth}

    return evaluate


def write_results(
    table: LookupTable, workdir: str | os.PathLike, *, bits_per_parameter: int = 0
) -> list[pathlib.Path]:
    """Writes a run's table and its picture into its workdir; returns the files.

    Args:
      table: with the provenance of a run.
      workdir: of the run.
      bits_per_parameter: of the picture's axis; 0 is the true size.
    """
    facts, bits = table.provenance, bits_per_parameter
    written = table.write(workdir)  # first: where it is refused, nothing is drawn
    picture = draw_error_vs_size(
        [average_seeds(facts["name"], [table], bits)],
        pathlib.Path(workdir) / "error_vs_size.png",
        title=f"{facts['name']} on {facts['dataset']} ({facts['split']})",
        axis=f"{bits} bits a parameter" if bits else facts["precision"],
        error_name=error_name([table]),
    )
    return [*written, pathlib.Path(picture)]


def summarise(table: LookupTable) -> str:
    """Returns the rows worth sending (`LookupTable.pareto`) as text."""
    lines = [f"blocks  stages      Mbit   bytes  MMACs  {error_name([table])} (95 % interval)"]
    for row in table.pareto():
        stages = "/".join(map(str, row.stage_blocks))
        lines.append(
            f"{row.depth:6d}  {stages:10s}{row.mbit:6.2f}  {row.share_of_bytes:5.1%} "
            f"{row.macs / 1e6:6.1f}  {row.top1_error:6.2%}"
            f"  ({row.error_low:.2%} to {row.error_high:.2%})"
        )
    return "\n".join(lines)
