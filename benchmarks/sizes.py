"""Flags that several benchmarks share; a command sets defaults of its own."""

from absl import flags

DEPTH_N = flags.DEFINE_integer("depth_n", 9, "n of ResNet-(6n+2).", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 124, "Images at once: of a step, over all devices; of a sweep.", lower_bound=1
)
PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "Of the computation; parameters are float32."
)
STEPS = flags.DEFINE_integer("steps", 5, "Of one measurement.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Counted measurements of each.", lower_bound=1)
DEPTHS = flags.DEFINE_integer("depths", 5, "How many of them, evenly spaced.", lower_bound=1)
AT_ONCE = flags.DEFINE_integer("at_once", 1, "Seeds trained as one program.", lower_bound=1)
JSON = flags.DEFINE_string("json", "", "Also writes the results to this JSON file.")
WAYS = flags.DEFINE_multi_enum(
    "way", ["unrolled", "scanned"], ["unrolled", "scanned"], "How the stages run; repeat for both."
)
