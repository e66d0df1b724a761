"""ResNet-110 on CIFAR-100, the plain network, always trained whole.

python -m accordion_jax.main --config=configs/resnet110_resnet.py

The baseline of the paper's figure: what truncating a network does that was never trained for it.
He et al. 2016 report 6.43 % for their ResNet-110 on CIFAR-10; about 28 % is usual on CIFAR-100.

The paper's schedule: 164 epochs, batch 124, one GPU or TPU. 54 blocks with
1.74 M parameters, 255.2 M multiply-accumulates an image.
A first look in 30 epochs: --config=configs/resnet110_resnet.py:fast
"""

from accordion_jax.runs.config import apply_variant, default_config


def get_config(variant=""):
    config = default_config()
    config.name = "resnet110_resnet"
    config.scheme = "resnet"
    return apply_variant(config, variant)
