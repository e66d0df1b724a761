"""The figure of the paper with ours beside it: every method in the wall time of the same training.

python -m accordion_jax.main --config=configs/figure.py:resnet20_coml-05

The variant is a network (resnet20 on CIFAR-10, resnet56 on CIFAR-10, resnet110 on CIFAR-100) and a
method (a key of METHODS). The plain network trains for EPOCHS; each other method for as long as
that takes: one whose mean step costs less takes more steps. All follow one cosine cycle from 0.1.
docs/figure.md has the command of the whole grid, and what came out.
"""

from accordion_jax.runs.config import default_config

# Network -> blocks a stage, data set, epochs of the plain network.
NETWORKS = {
    "resnet20": ((3, 3, 3), "cifar10", 4.0),
    "resnet56": ((9, 9, 9), "cifar10", 164.0),
    "resnet110": ((18, 18, 18), "cifar100", 164.0),
}

_DISTILLED = {"objective.distillation": 0.5}
_BLOCK = {"scheme": "blockcoml"}

# Method -> fields of the config.
METHODS = {
    "resnet": {"scheme": "resnet"},
    "coml-05": {},
    "coml-03": {"policy.full_probability": 0.3},
    "blockcoml-05": _BLOCK,
    "blockcoml-03": _BLOCK | {"policy.full_probability": 0.3},
    "nested": {"objective.name": "nested"},
    "expected": {"objective.name": "expected"},
    "distilled": {"objective.name": "expected"} | _DISTILLED,
    "third": {"policy.name": "only"},
    "two-thirds": {"policy.name": "only"},
}

# Method -> time of its mean step over the plain network's, of ResNet-20 on two CPU cores. Of drawn
# and single depths: the steps of benchmarks.training.depths --depth_n=3 --depths=9, weighted by the
# policy. Of the other objectives: near the ratios of the processor's time in docs/measurements.md.
COSTS = {
    "resnet": 1.0,
    "coml-05": 0.813,
    "coml-03": 0.738,
    "blockcoml-05": 0.773,
    "blockcoml-03": 0.682,
    "nested": 0.83,
    "expected": 1.05,
    "distilled": 1.06,
    "third": 0.531,
    "two-thirds": 0.773,
}


def get_config(variant="resnet20_coml-05"):
    network, _, method = variant.partition("_")
    if network not in NETWORKS or method not in METHODS:
        raise ValueError(
            f"variant {variant!r} is not known; wanted NETWORK_METHOD of {sorted(NETWORKS)} and "
            f"{sorted(METHODS)}"
        )
    stage_sizes, dataset, epochs = NETWORKS[network]
    epochs = round(epochs / COSTS[method], 2)
    config = default_config()
    config.update_from_flattened_dict(METHODS[method])
    config.name = f"figure_{network}_{config.scheme}"
    config.model.arguments.stage_sizes = stage_sizes
    if config.policy.name == "only":
        config.name = f"figure_{network}_{method}"
        config.policy.depth = sum(stage_sizes) * {"third": 1, "two-thirds": 2}[method] // 3
        config.sweep.depths = (config.policy.depth,)
    config.data.name = dataset
    config.train.batch_size = 128
    config.train.epochs = epochs
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = min(0.4, epochs / 10)
    config.optimizer.nesterov = True
    config.run.eval_every_epochs = 0.5 if network == "resnet20" else 10.0
    config.run.eval_examples = 2000
    return config
