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
from accordion_jax.models import ResNet

# How many of the configurations that training draws are measured in its middle.
_CONFIGURATIONS = 5


def make_evaluate(
    model: ResNet,
    ladder: Ladder,
    policy: Policy,
    dataset: data.Dataset,
    *,
    batch_size: int,
    examples: int = 0,
    compiler_options: dict[str, str | bool] | None = None,
) -> Callable[[dict[str, Any]], dict[str, float]]:
    """Returns an evaluation for the middle of training: a few configurations that it draws.

    Its "error", by which a best checkpoint can be chosen, is the policy's: the full model's error
    with its probability, and with the rest the mean over the smaller ones.

    Args:
      model: Linen module.
      ladder: of the scheme.
      policy: over the ladder.
      dataset: to measure on.
      batch_size: a device.
      examples: only the first so many; 0 is all.
      compiler_options: of XLA.

    Returns:
      From replicated variables to {"error": ..., "error_depth_<blocks>": ...}; it compiles at its
      first call.
    """
    drawn = sorted(policy.drawn)
    count = min(_CONFIGURATIONS, len(drawn))
    chosen = sorted({drawn[round(i * (len(drawn) - 1) / max(count - 1, 1))] for i in range(count)})
    configurations = [ladder[index] for index in chosen]
    sweep: Sweep | None = None

    def evaluate(variables: dict[str, Any]) -> dict[str, float]:
        nonlocal sweep
        sweep = sweep or Sweep(
            model,
            tuple(each.skip_mask for each in configurations),
            dataset,
            batch_size=batch_size,
            examples=examples,
            compiler_options=compiler_options,
        )
        counts = sweep(variables)
        errors = counts.errors / counts.examples
        full = policy.probabilities[-1]
        smaller = errors[:-1].mean() if len(errors) > 1 else errors[-1]
        by_depth = {
            f"error_depth_{each.depth}": float(error)
            for each, error in zip(configurations, errors, strict=True)
        }
        return {"error": float(full * errors[-1] + (1 - full) * smaller), **by_depth}

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
    picture = draw_error_vs_size(
        [average_seeds(facts["name"], [table], bits)],
        pathlib.Path(workdir) / "error_vs_size.png",
        title=f"{facts['name']} on {facts['dataset']} ({facts['split']})",
        axis=f"{bits} bits a parameter" if bits else facts["precision"],
        error_name=error_name([table]),
    )
    return [*table.write(workdir), pathlib.Path(picture)]


def summarise(table: LookupTable) -> str:
    """Returns the rows worth sending (`LookupTable.pareto`) as text."""
    lines = ["blocks  stages      Mbit   bytes  MMACs  top-1 error (95 % interval)"]
    for row in table.pareto():
        stages = "/".join(map(str, row.stage_blocks))
        lines.append(
            f"{row.depth:6d}  {stages:10s}{row.mbit:6.2f}  {row.share_of_bytes:5.1%} "
            f"{row.macs / 1e6:6.1f}  {row.top1_error:6.2%}"
            f"  ({row.error_low:.2%} to {row.error_high:.2%})"
        )
    return "\n".join(lines)
