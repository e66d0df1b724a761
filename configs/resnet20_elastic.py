"""The ResNet-20 on CIFAR-10 whose bundle comes with the project, and the plain one beside it.

python -m accordion_jax.main --config=configs/resnet20_elastic.py
python -m accordion_jax.main --config=configs/resnet20_elastic.py:deepened

Every depth in every step, the deepest teaching the others. `:elastic` gives the full depth half of
the weight; `:deepened` starts from it and goes on for a few epochs with nine tenths. `:plain`
trains the full depth alone, for comparison. 5,000 training images are held out, for choices that
are made with a trained network.
"""

from accordion_jax.runs.config import default_config

_ELASTIC = {
    "objective.name": "expected",
    "objective.distillation": 0.5,
    "policy.min_depth": 0,
}
_DEEPENED = {
    "train.start_from": "runs/resnet20_elastic-05-expected-distilled_seed0",
    "policy.full_probability": 0.9,
    "train.epochs": 5.0,
    "optimizer.learning_rate": 0.02,
    "optimizer.warmup_epochs": 0.2,
}
VARIANTS = {
    "elastic": {"name": "resnet20_elastic"} | _ELASTIC,
    "deepened": {"name": "resnet20_deepened"} | _ELASTIC | _DEEPENED,
    "plain": {"name": "resnet20_plain", "scheme": "resnet"},
}


def get_config(variant="elastic"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not known; wanted one of {sorted(VARIANTS)}")
    config = default_config()
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.data.name = "cifar10"
    config.data.holdout = 5000
    config.train.batch_size = 256
    config.train.epochs = 60.0
    config.optimizer.learning_rate = 0.2
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.run.eval_every_epochs = 20.0
    config.run.checkpoint_every_epochs = 5.0
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
