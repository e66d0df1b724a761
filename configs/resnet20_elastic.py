"""The ResNet-20 on CIFAR-10 whose bundle comes with the project, and others beside it.

python -m accordion_jax.main --config=configs/resnet20_elastic.py
python -m accordion_jax.main --config=configs/resnet20_elastic.py:rounded
python -m accordion_jax.main --config=configs/resnet20_elastic.py:sparse
python -m accordion_jax.main --config=configs/resnet20_elastic.py:sparse_rounded
python -m accordion_jax.main --config=configs/resnet20_elastic.py:plain_again
python -m accordion_jax.main --config=configs/resnet20_elastic.py:plain
python -m accordion_jax.main --config=configs/resnet20_elastic.py:from_plain
python -m accordion_jax.main --config=configs/resnet20_elastic.py:own_heads
python -m accordion_jax.main --config=configs/resnet20_elastic.py:fitted_heads

Every depth in every step, the deepest teaching the others. `:elastic` gives the full depth half of
the weight. `:rounded` goes on from it for eight epochs, in which half of the blocks compute with
weights in 4 bits, and gives it three quarters. `:sparse` goes on from its bundle for three epochs,
in which seven tenths of the blocks' weights are zero: the model of ``pretrained/``.
`:sparse_rounded` goes on for six and a half, rounds as `:rounded` too, and gives the full depth
seven tenths of the weight: better in 4 bits at the full depth, worse below. `:plain`
trains the full depth alone, for comparison; `:plain_again` does so from the elastic network's
weights, in a twelfth of the time. `:from_plain` goes the other way, from the plain network to one
of all depths, sparse and rounded; `:own_heads` goes on from that, each block with a head of its
own, and `:fitted_heads` fits these heads: less behind at the full depth, more at the first blocks.
The last four want --workdir=runs/ and their names: each begins with the one before.
5,000 training images are held out, for choices that are made with a trained network. Elastic and
plain took two minutes each on an H200 that three such runs shared, `:sparse` ten minutes on two CPU
cores. Top-1 error on the test set: elastic 37.9 % with three blocks, 17.1 % with six, 9.7 % with
all; sparse 38.1, 17.4 and 10.2 %; plain 8.7 % (50 epochs by PyTorch: 9.2), and with fitted heads
from that 53.5, 24.8 and 9.7 %.
"""

from accordion_jax.runs.config import default_config

_BUNDLE = (
    "results/compositions/elastic/30f94151daa206cd3225559aa792a85e04863c7220f065f26990e78a9dc915c0"
)
_ELASTIC = {
    "objective.name": "expected",
    "objective.distillation": 0.5,
    "policy.min_depth": 0,
}
_SMALL = {"train.sparsity": 0.7, "train.bits": (4, 32)}
_OWN_HEADS = {
    "model.arguments.own_heads": True,
    "policy.name": "listed",
    "policy.probabilities": (0.01, 0.01, 0.02, 0.03, 0.04, 0.07, 0.05, 0.07, 0.1, 0.6),
}
VARIANTS = {
    "elastic": {"name": "resnet20_elastic"} | _ELASTIC,
    "rounded": {
        "name": "resnet20_elastic",
        "train.start_from": "runs/resnet20_elastic-05-expected-distilled_seed0",
        "train.bits": (4, 32),
        "train.epochs": 8.0,
        "policy.full_probability": 0.75,
        "optimizer.learning_rate": 0.05,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": 2.0,
        "run.checkpoint_every_epochs": 1.0,
    }
    | _ELASTIC,
    "sparse": {
        "name": "resnet20_elastic",
        "train.start_from": _BUNDLE,
        "train.sparsity": 0.7,
        "train.epochs": 3.0,
        "optimizer.learning_rate": 0.05,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": 3.0,
        "run.checkpoint_every_epochs": 1.0,
    }
    | _ELASTIC,
    "sparse_rounded": {
        "name": "resnet20_elastic",
        "train.start_from": _BUNDLE,
        "train.epochs": 6.5,
        "policy.full_probability": 0.7,
        "optimizer.learning_rate": 0.05,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": 6.5,
        "run.checkpoint_every_epochs": 1.0,
    }
    | _ELASTIC
    | _SMALL,
    "from_plain": {
        "name": "resnet20_elastic",
        "train.start_from": "runs/plain",
        "train.epochs": 16.0,
        "policy.full_probability": 0.75,
        "optimizer.learning_rate": 0.1,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": 16.0,
        "run.checkpoint_every_epochs": 1.0,
    }
    | _ELASTIC
    | _SMALL,
    "own_heads": {
        "name": "resnet20_elastic",
        "train.start_from": "runs/from_plain",
        "train.epochs": 10.0,
        "optimizer.learning_rate": 0.1,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": 10.0,
        "run.checkpoint_every_epochs": 1.0,
    }
    | _ELASTIC
    | _SMALL
    | _OWN_HEADS,
    "fitted_heads": {
        "name": "resnet20_elastic_fitted",
        "train.start_from": "runs/own_heads",
        "train.fit_heads": True,
        "train.epochs": 0.0,
        "run.eval_every_epochs": 0.0,
    }
    | _ELASTIC
    | _SMALL
    | _OWN_HEADS,
    "plain": {"name": "resnet20_plain", "scheme": "resnet"},
    "plain_again": {
        "name": "resnet20_plain",
        "scheme": "resnet",
        "train.start_from": _BUNDLE,
        "train.epochs": 5.0,
        "optimizer.learning_rate": 0.05,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": 5.0,
        "run.checkpoint_every_epochs": 1.0,
    },
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
