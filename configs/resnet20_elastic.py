"""The ResNet-20 on CIFAR-10 whose bundle comes with the project, and others beside it.

python -m accordion_jax.main --config=configs/resnet20_elastic.py
python -m accordion_jax.main --config=configs/resnet20_elastic.py:rounded
python -m accordion_jax.main --config=configs/resnet20_elastic.py:sparse
python -m accordion_jax.main --config=configs/resnet20_elastic.py:sparse_rounded
python -m accordion_jax.main --config=configs/resnet20_elastic.py:plain_again
python -m accordion_jax.main --config=configs/resnet20_elastic.py:plain
python -m accordion_jax.main --config=configs/resnet20_elastic.py:from_plain
python -m accordion_jax.main --config=configs/resnet20_elastic.py:settled
python -m accordion_jax.main --config=configs/resnet20_elastic.py:fitted
python -m accordion_jax.main --config=configs/resnet20_elastic.py:refined
python -m accordion_jax.main --config=configs/resnet20_elastic.py:finer
python -m accordion_jax.main --config=configs/resnet20_elastic.py:pruned
python -m accordion_jax.main --config=configs/resnet20_elastic.py:small

Every depth in every step, the deepest teaching the others. `:elastic` gives the full depth half of
the weight. `:rounded` goes on from it for eight epochs, in which half of the blocks compute with
weights in 4 bits, and gives it three quarters. `:sparse` goes on from its bundle for three epochs,
in which seven tenths of the blocks' weights are zero. `:sparse_rounded` goes on for six and a half,
rounds as `:rounded` too, and gives the full depth seven tenths of the weight: better in 4 bits at
the full depth, worse below. `:plain` trains the full depth alone, for comparison; `:plain_again`
does so from the elastic network's weights, in a twelfth of the time; `:small` trains a ResNet-14,
with the elastic network for a teacher.

The others go the other way. `:from_plain` begins with the plain network (80 epochs of `:plain`,
which also teaches them all), with 78 % of its weights zero, half of its blocks in 4 bits in each
step, and a head for each block; `:settled` goes on with three quarters of the weight on the full
depth; `:fitted` fits the heads. These want --workdir=runs/ and their names: one begins with the
other. `:pruned` is the plain network with three quarters of its weights zero, for comparison.

`:refined` begins with a bundle of such a network, and trains, for the full depth alone, what a
fifth bit adds to its first 4; `:finer`, what a sixth adds to these 5: its bundle is that of
``pretrained/``. They learn from the bundle of the plain network.

5,000 training images are held out, for choices that are made with a trained network. Elastic and
plain took two minutes each on an H200 that three such runs shared, `:sparse` ten minutes on two CPU
cores. Top-1 error on the test set with three blocks, six, and all: elastic 37.9, 17.1 and 9.7 %;
sparse 38.1, 17.4 and 10.2; fitted 52.6, 20.9 and 9.4; refined, full depth in 5 bits, 8.8; finer, in
6, 8.5. Plain 8.7 % (80 epochs by PyTorch: 8.2).
"""

from accordion_jax.runs.config import default_config

_BUNDLE = (
    "results/compositions/elastic/30f94151daa206cd3225559aa792a85e04863c7220f065f26990e78a9dc915c0"
)
_PLAIN = (
    "results/compositions/plain/4ad2c600a54a0764913f6590cb89325975489d0ffd68e7b3b25eeaaad17fc9ce"
)
_FOUR_BITS = (
    "results/compositions/refined/1c7317ad2ec7f891dba74186183ce766d3d21f202137b54eb77deb5edc4787a5"
)
_FIVE_BITS = (
    "results/compositions/refined/9d30462d4c93babea3abad869996b69f70732e69fc1a1996f924684430baf1e5"
)
_ELASTIC = {
    "objective.name": "expected",
    "objective.distillation": 0.5,
    "policy.min_depth": 0,
}
_SMALL = {"train.sparsity": 0.7, "train.bits": (4, 32)}
_OWN_HEADS = {"model.arguments.own_heads": True, "policy.name": "listed"}
_SPARSER = _SMALL | {"train.sparsity": 0.78}
_MORE_BELOW = _OWN_HEADS | {
    "policy.probabilities": (0.01, 0.01, 0.02, 0.03, 0.05, 0.08, 0.06, 0.12, 0.1, 0.52),
}
_LESS_BELOW = _OWN_HEADS | {
    "policy.probabilities": (0.005, 0.005, 0.01, 0.01, 0.02, 0.04, 0.03, 0.09, 0.05, 0.74),
}
_TAUGHT = {
    "train.teacher": _BUNDLE,
    "objective.distillation": 0.5,
    "objective.temperature": 2.0,
}
_REFINING = (
    {"name": "resnet20_elastic_refined"}
    | _ELASTIC
    | _OWN_HEADS
    | _TAUGHT
    | {"train.teacher": _PLAIN, "policy.probabilities": (*9 * (0.0,), 1.0)}
)
_TAUGHT_BY_PLAIN = _TAUGHT | {"train.teacher": "runs/plain"}


def _going_on(epochs, learning_rate):
    """Fields of a run that begins with another's weights: a cosine cycle, measured at its end."""
    return {
        "train.epochs": epochs,
        "optimizer.learning_rate": learning_rate,
        "optimizer.warmup_epochs": 0.5,
        "run.eval_every_epochs": epochs,
        "run.checkpoint_every_epochs": 1.0,
    }


VARIANTS = {
    "elastic": {"name": "resnet20_elastic"} | _ELASTIC,
    "rounded": {
        "name": "resnet20_elastic",
        "train.start_from": "runs/resnet20_elastic-05-expected-distilled_seed0",
        "train.bits": (4, 32),
        "policy.full_probability": 0.75,
        **_going_on(8.0, 0.05),
        "run.eval_every_epochs": 2.0,
    }
    | _ELASTIC,
    "sparse": {
        "name": "resnet20_elastic",
        "train.start_from": _BUNDLE,
        "train.sparsity": 0.7,
        **_going_on(3.0, 0.05),
    }
    | _ELASTIC,
    "sparse_rounded": {
        "name": "resnet20_elastic",
        "train.start_from": _BUNDLE,
        "policy.full_probability": 0.7,
        **_going_on(6.5, 0.05),
    }
    | _ELASTIC
    | _SMALL,
    "from_plain": {
        "name": "resnet20_elastic",
        "train.start_from": "runs/plain",
        **_going_on(40.0, 0.1),
    }
    | _ELASTIC
    | _SPARSER
    | _TAUGHT_BY_PLAIN
    | _MORE_BELOW,
    "settled": {
        "name": "resnet20_elastic",
        "train.start_from": "runs/from_plain",
        **_going_on(14.0, 0.08),
    }
    | _ELASTIC
    | _SPARSER
    | _TAUGHT_BY_PLAIN
    | _LESS_BELOW,
    "fitted": {
        "name": "resnet20_elastic_fitted",
        "train.start_from": "runs/settled",
        "train.fit_heads": True,
        "train.epochs": 0.0,
        "run.eval_every_epochs": 0.0,
    }
    | _ELASTIC
    | _SPARSER
    | _LESS_BELOW,
    "refined": {
        "train.start_from": _FOUR_BITS,
        "train.within_bits": 4,
        "train.bits": (5,),
        "train.sparsity": 0.71,
        **_going_on(18.0, 0.08),
    }
    | _REFINING,
    "finer": {
        "train.start_from": _FIVE_BITS,
        "train.within_bits": 5,
        "train.bits": (6,),
        **_going_on(20.0, 0.1),
    }
    | _REFINING,
    "small": {
        "name": "resnet14_plain",
        "scheme": "resnet",
        "model.arguments.stage_sizes": (2, 2, 2),
        "train.epochs": 24.0,
        "run.eval_every_epochs": 24.0,
    }
    | _TAUGHT,
    "plain": {"name": "resnet20_plain", "scheme": "resnet"},
    "pruned": {
        "name": "resnet20_plain",
        "scheme": "resnet",
        "train.start_from": "runs/plain",
        **_going_on(8.0, 0.1),
    }
    | _SMALL
    | _TAUGHT_BY_PLAIN
    | {"train.sparsity": 0.75},
    "plain_again": {
        "name": "resnet20_plain",
        "scheme": "resnet",
        "train.start_from": _BUNDLE,
        **_going_on(5.0, 0.05),
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
