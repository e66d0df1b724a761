"""ResNet-110 on CIFAR-100, BlockCoML: keeps the first k blocks of every stage.

python -m accordion_jax.main --config=configs/resnet110_blockcoml.py

The full model is drawn with probability 0.5 (BlockCoML-05); for BlockCoML-03 add
--config.policy.full_probability=0.3. Otherwise k is uniform.

The paper's schedule: 164 epochs, batch 124, one GPU or TPU. 54 blocks with
1.74 M parameters, 255.2 M multiply-accumulates an image.
A first look in 30 epochs: --config=configs/resnet110_blockcoml.py:fast
"""

from accordion_jax.runs.config import apply_variant, default_config


def get_config(variant=""):
    config = default_config()
    config.name = "resnet110_blockcoml"
    config.scheme = "blockcoml"
    return apply_variant(config, variant)
