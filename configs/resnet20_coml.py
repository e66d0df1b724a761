"""ResNet-20 on CIFAR-10 with CoML-05: a first real run for small machines.

python -m accordion_jax.main --config=configs/resnet20_coml.py

Ten epochs with one cosine cycle: 20 minutes on two CPU cores. Top-1 error 63 % with one block, 33 %
with four (12 % of the bytes), 18.6 % with all nine (seed 0; the whole table is in
docs/measurements.md).
"""

from accordion_jax.runs.config import default_config, shorten


def get_config():
    config = default_config()
    config.name = "resnet20_coml"
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.data.name = "cifar10"
    config.train.batch_size = 128
    config.run.eval_every_epochs = 1.0
    config.run.eval_examples = 2000
    return shorten(config, epochs=10)
