"""How the commands here start: flags that several share, and one way to run."""

from collections.abc import Callable
from typing import Any

from absl import app, flags

from accordion_jax.system import command
from benchmarks.work import Options

DEPTH_N = flags.DEFINE_integer("depth_n", 9, "n of ResNet-(6n+2).", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 124, "Images at once, on all devices.", 1)
PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "Of the computation; parameters are float32."
)
STEPS = flags.DEFINE_integer("steps", 5, "Of one measurement.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Counted measurements of each.", lower_bound=1)
AT_ONCE = flags.DEFINE_integer("at_once", 1, "Seeds trained as one program.", lower_bound=1)
SWEEP_EXAMPLES = flags.DEFINE_integer("sweep_examples", 1000, "Of a sweep.", lower_bound=1)
WAYS = flags.DEFINE_multi_enum(
    "way", ["unrolled", "scanned"], ["unrolled", "scanned"], "How the stages run; repeat for both."
)
RUN = flags.DEFINE_string("run", None, "Folder of a trained run.")
OUT = flags.DEFINE_string("out", None, "Folder to write into.")
ONLY = flags.DEFINE_list("only", ["*"], "Patterns of names: what fits one of them is done.")
NNC_PYTHON = flags.DEFINE_string(
    "nnc_python", "", "A Python with nncodec; empty: without it, which the output then says."
)
JSON = flags.DEFINE_string("json", "", "Also writes the results to this JSON file.")


def asked(examples: int = 0, **more: Any) -> Options:
    """Returns the work that the flags ask for, on so many images or more."""
    size = DEPTH_N.value, BATCH_SIZE.value, PRECISION.value
    examples = max(examples, 4 * BATCH_SIZE.value, SWEEP_EXAMPLES.value)
    return Options(*size, examples=examples, sweep_examples=SWEEP_EXAMPLES.value, **more)


def run(main: Callable[[], None], **defaults: Any) -> None:
    """Runs a command: an error is a line that begins ``error:``, and exit code 1.

    Args:
      main: measures and prints.
      **defaults: of flags, where the command's differ from those here.
    """
    for name, value in defaults.items():
        flags.FLAGS.set_default(name, value)

    def without_arguments(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}; options are --NAME=VALUE")
        main()

    command.run(without_arguments, errors=(RuntimeError,))
