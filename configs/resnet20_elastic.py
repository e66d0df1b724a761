"""The ResNet-20 on CIFAR-10 whose bundle comes with the project, and the plain one beside it.

python -m accordion_jax.main --config=configs/resnet20_elastic.py
python -m accordion_jax.main --config=configs/resnet20_elastic.py:plain

Every depth in every step, the deepest teaching the others.
"""

from accordion_jax.runs.config import default_config


def get_config(variant="elastic"):
    config = default_config()
    if variant == "elastic":
        config.name = "resnet20_elastic"
        config.objective.name = "expected"
        config.objective.distillation = 0.5
        config.policy.min_depth = 0
    elif variant == "plain":
        config.name = "resnet20_plain"
        config.scheme = "resnet"
    else:
        raise ValueError(f"variant {variant!r} is not known; use 'elastic' or 'plain'")
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.data.name = "cifar10"
    config.train.batch_size = 128
    config.train.epochs = 200.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.run.eval_every_epochs = 10.0
    return config
