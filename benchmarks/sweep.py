"""What a sweep costs: all truncations in one pass, against full depth alone and one by one.

    python -m benchmarks.sweep --depth_n=18 --images=1000

Prints the ratio of the one-pass sweep of every prefix of ResNet-(6n+2) to one evaluation of the
full network on the same images, and to evaluating each truncation on its own (timed at every
`--every`-th depth and summed over all by linear interpolation).
"""

import jax
import numpy as np
import optax
from absl import app, flags

from accordion_jax import data, evaluation, training
from accordion_jax.depth import make_ladder
from accordion_jax.models import ResNet
from benchmarks.machine import machine
from benchmarks.sizes import BATCH_SIZE, DEPTH_N, REPEATS
from benchmarks.timing import interleaved, median_ratio

_IMAGES = flags.DEFINE_integer("images", 1000, "Images to evaluate.")
_EVERY = flags.DEFINE_integer("every", 9, "Depths to time one by one; 0: none.")


def main(_argv: list[str]) -> None:
    """Times and prints."""
    model = ResNet(100, (DEPTH_N.value,) * 3)
    ladder = make_ladder("coml", model.stage_sizes)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_IMAGES.value, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 100, _IMAGES.value).astype(np.int32)
    dataset = data.Dataset("random", images, labels, 100, (0.5,) * 3, (0.25,) * 3)

    state = training.init_state(model, optax.identity(), jax.random.key(0), (32, 32, 3))
    variables = data.replicate(state.variables)

    def sweep_of(masks):
        sweep = evaluation.Sweep(
            model,
            masks,
            dataset,
            batch_size=BATCH_SIZE.value,
            compiler_options=training.cpu_compiler_options(),
        )
        return lambda: sweep(variables)

    runs = {
        "all truncations, one pass": sweep_of(ladder.skip_masks),
        "full depth": sweep_of(ladder.skip_masks[-1:]),
    }
    depths = range(0, len(ladder), _EVERY.value) if _EVERY.value else ()
    runs |= {f"depth {depth}": sweep_of((ladder.skip_masks[depth],)) for depth in depths}
    seconds = interleaved(runs, REPEATS.value)
    one_pass, full = seconds["all truncations, one pass"], seconds["full depth"]

    print(f"ResNet-{6 * DEPTH_N.value + 2}, {len(ladder)} truncations, {_IMAGES.value} images")
    print(machine("jax", "jaxlib", "flax"))
    print(f"full depth: {np.median(full):.2f} s; one pass over all: {np.median(one_pass):.2f} s")
    print(f"one pass / full depth: {median_ratio(one_pass, full):.3f} (median of {REPEATS.value})")
    if depths:
        known = [float(np.median(seconds[f"depth {depth}"])) for depth in depths]
        total = float(np.interp(range(len(ladder)), list(depths), known).sum())
        print(
            f"one by one: {total:.2f} s; one pass / one by one: {np.median(one_pass) / total:.3f}"
        )


if __name__ == "__main__":
    flags.set_default(DEPTH_N, 18)
    flags.set_default(BATCH_SIZE, 250)
    app.run(main)
