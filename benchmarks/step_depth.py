"""A skipped block costs no time: the time of a training step against the number of kept blocks.

    python -m benchmarks.step_depth --n=9 --batch_size=128

Prints time(k) / time(full) beside k / all for ResNet-(6n+2) under CoML, and the largest difference.
"""

import functools

import jax
import numpy as np
import optax
from absl import app, flags

from accordion_jax import data, training
from accordion_jax.depth import make_ladder
from accordion_jax.models import ResNet
from accordion_jax.training import step as step_lib
from accordion_jax.training.experiment import kept_units
from benchmarks.machine import machine
from benchmarks.timing import interleaved, median_ratio

_N = flags.DEFINE_integer("n", 9, "Blocks a stage: ResNet-(6n+2).")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images a step.")
_DEPTHS = flags.DEFINE_integer("depths", 5, "How many depths to time, evenly spaced.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Counted steps of each.")


def main(_argv: list[str]) -> None:
    """Times and prints."""
    model = ResNet(100, (_N.value,) * 3)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.trace(0.9))
    state = data.replicate(training.init_state(model, optimizer, jax.random.key(0), (32, 32, 3)))
    examples = 4 * _BATCH.value
    rng = np.random.default_rng(0)
    inputs = data.replicate(
        (
            np.arange(examples, dtype=np.int32),
            rng.integers(0, 256, (examples, 32, 32, 3), np.uint8),
            rng.integers(0, 100, examples).astype(np.int32),
        )
    )
    ladder = make_ladder("coml", model.stage_sizes)
    total = ladder.full.depth
    depths = sorted({round(total * i / _DEPTHS.value) for i in range(1, _DEPTHS.value + 1)})

    def step_of(depth):
        mask = ladder[depth].skip_mask
        step = functools.partial(
            step_lib.train_step,
            model=model,
            skip_mask=mask,
            optimizer=optimizer,
            learning_rate=optax.constant_schedule(0.1),
            augmentation=step_lib.Augmentation(4, True, (0.5,) * 3, (0.25,) * 3),
            seed=0,
            batch_size=_BATCH.value,
            devices=jax.device_count(),
        )
        mapped = jax.pmap(step, axis_name=step_lib.AXIS)
        kept = state.keep(kept_units(model, mask))
        lowered = mapped.lower(kept, *inputs)  # type: ignore[attr-defined]
        compiled = lowered.compile(compiler_options=training.cpu_compiler_options() or None)
        return lambda: jax.block_until_ready(compiled(kept, *inputs))

    seconds = interleaved({str(depth): step_of(depth) for depth in depths}, _REPEATS.value)
    full = seconds[str(total)]
    print(f"ResNet-{6 * _N.value + 2}, batch {_BATCH.value}")
    print(machine("jax", "jaxlib", "flax"))
    print(
        "| blocks | share | seconds | time / full | difference |\n| --- | --- | --- | --- | --- |"
    )
    worst = 0.0
    for depth in depths:
        ratio, share = median_ratio(seconds[str(depth)], full), depth / total
        worst = max(worst, abs(ratio - share))
        print(
            f"| {depth} | {share:.3f} | {np.median(seconds[str(depth)]):.3f} | {ratio:.3f} | "
            f"{ratio - share:+.3f} |"
        )
    print(f"largest difference: {worst:.3f} (medians of {_REPEATS.value} steps, taken in turn)")


if __name__ == "__main__":
    app.run(main)
