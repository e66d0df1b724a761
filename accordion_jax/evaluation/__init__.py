"""The sweep of a ladder, its costs, and the pictures."""

from accordion_jax.evaluation.own import statistics_facts, sweep_own
from accordion_jax.evaluation.pictures import Curve, average_seeds, draw_error_vs_size
from accordion_jax.evaluation.results import make_evaluate, summarise, write_results
from accordion_jax.evaluation.seeds import error_name, group_seeds, without_common
from accordion_jax.evaluation.sweep import Counts, Sweep, make_table

__all__ = [
    "Counts",
    "Curve",
    "Sweep",
    "average_seeds",
    "draw_error_vs_size",
    "error_name",
    "group_seeds",
    "make_evaluate",
    "make_table",
    "statistics_facts",
    "summarise",
    "sweep_own",
    "without_common",
    "write_results",
]
