"""ResNet-56 on CIFAR-10, the plain network, always trained whole.

python -m accordion_jax.main --config=configs/resnet56_resnet.py

The baseline of the paper's figure: what truncating a network does that was never trained for it.
He et al. 2016 report 6.97 % for their ResNet-56 on CIFAR-10.

The paper's schedule: 164 epochs, batch 124, one GPU or TPU. 27 blocks with
0.87 M parameters, 127.8 M multiply-accumulates an image.
A first look in 30 epochs: --config=configs/resnet56_resnet.py:fast
"""

from accordion_jax.runs.config import apply_variant, default_config


def get_config(variant=""):
    config = default_config()
    config.name = "resnet56_resnet"
    config.scheme = "resnet"
    config.model.arguments.stage_sizes = (9, 9, 9)
    config.data.name = "cifar10"
    return apply_variant(config, variant)
