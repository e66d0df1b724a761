"""ResNet-56 on CIFAR-10, CoML: skips blocks from the right.

python -m accordion_jax.main --config=configs/resnet56_coml.py

The full model is drawn with probability 0.5 (CoML-05); for CoML-03 add
--config.policy.full_probability=0.3. Otherwise the number of kept blocks is uniform.

The paper's schedule: 164 epochs, batch 124, one GPU or TPU. 27 blocks with
0.87 M parameters, 127.8 M multiply-accumulates an image.
A first look in 30 epochs: --config=configs/resnet56_coml.py:fast
"""

from accordion_jax.runs.config import apply_variant, default_config


def get_config(variant=""):
    config = default_config()
    config.name = "resnet56_coml"
    config.model.arguments.stage_sizes = (9, 9, 9)
    config.data.name = "cifar10"
    return apply_variant(config, variant)
