"""The fields of an experiment, their defaults, and what may not change in the middle of a run.

A config file in ``configs/`` starts from `default_config` and sets what differs. Unknown fields are
refused by ml_collections (the config is locked); values are checked by `validate`.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import ml_collections

# Sections that say how a run is carried out or read, not what is trained: these may change between
# two calls with the same workdir.
OPERATIONAL = ("run", "sweep")


def default_config() -> ml_collections.ConfigDict:
    """Returns every field with its default: the paper's training of CoML-05 on CIFAR-100.

    Ayed et al.: SGD for 164 epochs with batch 124, learning rate 0.1 divided by 10 after epochs 82
    and 123; momentum 0.9 and weight decay 1e-4 of He et al. 2016 (arXiv:1512.03385).
    """
    config = ml_collections.ConfigDict()
    config.name = "resnet110_coml"
    config.seed = 0
    config.scheme = "coml"  # "resnet", "coml" or "blockcoml"

    config.model = ml_collections.ConfigDict()
    config.model.family = "resnet"
    config.model.stage_sizes = (18, 18, 18)  # blocks a stage: ResNet-(6n+2) is (n, n, n)
    config.model.channels = (16, 32, 64)
    config.model.dtype = "float32"  # of the computation; parameters are float32
    # Batch norm over the whole batch; False normalises with each device's own shard.
    config.model.cross_replica_batch_norm = False

    config.policy = ml_collections.ConfigDict()
    config.policy.full_probability = 0.5  # of drawing the full model; the rest is uniform
    config.policy.min_depth = 1  # blocks in the smallest configuration that is drawn
    # One a configuration, smallest (the base alone) first; empty: from the two fields above.
    config.policy.probabilities = ()
    # Of the draws; -1: config.seed. Seeds that are trained at once need the same draws.
    config.policy.seed = -1

    config.data = ml_collections.ConfigDict()
    config.data.name = "cifar100"  # "cifar10", "cifar100" or "digits"
    config.data.dir = ""  # empty: TFDS's own default
    config.data.holdout = 0  # training examples kept aside as the split "validation"
    config.data.pad = 4  # pixels of zero padding around the random crop
    config.data.flip = True  # random horizontal flips

    config.train = ml_collections.ConfigDict()
    config.train.epochs = 164.0
    config.train.steps = 0  # length in steps instead, where not 0; epochs still time the schedule
    config.train.batch_size = 124  # over all devices

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"  # "step" or "cosine"
    config.optimizer.decay_epochs = (82.0, 123.0)  # of "step"
    config.optimizer.decay_factor = 0.1  # of "step"
    config.optimizer.warmup_epochs = 0.0  # linear, from 0
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4

    config.run = ml_collections.ConfigDict()
    # Variants are compiled "background": while training goes on, in the order of their first draw;
    # "lazy": when first drawn; "ahead": all of them before the first step.
    config.run.compile = "background"
    config.run.compile_workers = 0  # compilations at once; 0: as many as the CPU has cores for
    # Blocks of a stage in a loop: compiles faster, the same but for rounding. For TPUs: on CPU the
    # steps are many times slower with it, and on a GPU they launch more than twice as many kernels.
    config.run.scan_stages = False
    config.run.log_every_steps = 100
    config.run.checkpoint_every_epochs = 1.0
    config.run.checkpoint_every_steps = 0  # instead of epochs, where not 0
    config.run.keep_checkpoints = 2  # the latest k; the best one is kept besides
    config.run.eval_every_epochs = 10.0  # 0: never; evaluates on sweep.split
    config.run.eval_examples = 0  # 0: all
    config.run.compilation_cache = ""  # folder; empty: <workdir>/compilation_cache; "off": none

    config.sweep = ml_collections.ConfigDict()
    config.sweep.split = "test"  # or "validation", with data.holdout
    config.sweep.checkpoint = "latest"  # or "best"
    config.sweep.depths = ()  # blocks kept in the configurations to sweep; empty: the whole ladder
    config.sweep.examples = 0  # 0: all
    config.sweep.batch_size = 500  # a device
    config.sweep.bits_per_parameter = 0  # of the picture's axis; 0: true bytes; the paper's: 64
    return config


def shorten(config: ml_collections.ConfigDict, epochs: float = 30.0) -> ml_collections.ConfigDict:
    """Returns the config with a fast schedule: one cosine cycle with a warm-up of a tenth.

    A first look at a scheme in a fifth of the paper's time; errors come out a little higher.
    """
    config.name += "_fast"
    config.train.epochs = epochs
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = epochs / 10
    config.optimizer.nesterov = True
    return config


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Returns the config in the variant after the colon of ``--config=FILE:VARIANT``.

    Raises:
      ValueError: the variant is neither empty (as in the paper) nor ``fast``.
    """
    if variant == "fast":
        return shorten(config)
    if variant:
        raise ValueError(f"config variant {variant!r} is not known; use none, or ':fast'")
    return config


def run_name(config: ml_collections.ConfigDict) -> str:
    """Returns the name of a run without its seed, for instance ``resnet110_coml-05``.

    The suffix is the paper's: the probability of the full model, 0.5 as ``05``. Scheme ``resnet``
    always trains the full model, and has none; a policy given in full is ``custom``.
    """
    if config.policy.probabilities:
        return f"{config.name}-custom"
    if config.scheme == "resnet":
        return config.name
    return f"{config.name}-{f'{config.policy.full_probability:g}'.replace('.', '')}"


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks values that no other part would refuse in words.

    Raises:
      ValueError: names the field, its value and what is wanted.
    """
    choices = {
        "model.dtype": ("float32", "bfloat16"),
        "optimizer.schedule": ("step", "cosine"),
        "run.compile": ("background", "lazy", "ahead"),
        "sweep.split": ("test", "validation"),
        "sweep.checkpoint": ("latest", "best"),
    }
    for name, allowed in choices.items():
        if (value := _get(config, name)) not in allowed:
            close = difflib.get_close_matches(str(value), allowed, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"config.{name}={value!r} must be one of {allowed}{hint}")
    least = {
        "seed": 0,
        "policy.seed": -1,
        "data.holdout": 0,
        "data.pad": 0,
        "train.epochs": 0,
        "train.steps": 0,
        "train.batch_size": 1,
        "optimizer.learning_rate": 0,
        "optimizer.warmup_epochs": 0,
        "optimizer.weight_decay": 0,
        "run.compile_workers": 0,
        "run.log_every_steps": 1,
        "run.checkpoint_every_epochs": 0,
        "run.checkpoint_every_steps": 0,
        "run.keep_checkpoints": 1,
        "run.eval_every_epochs": 0,
        "run.eval_examples": 0,
        "sweep.examples": 0,
        "sweep.batch_size": 1,
        "sweep.bits_per_parameter": 0,
    }
    for name, bound in least.items():
        if not _get(config, name) >= bound:
            raise ValueError(f"config.{name}={_get(config, name)} must be at least {bound}")
    if not 0 <= config.optimizer.momentum < 1:
        raise ValueError(f"config.optimizer.momentum={config.optimizer.momentum} must be in [0, 1)")
    if config.sweep.split == "validation" and not config.data.holdout:
        raise ValueError(
            "config.sweep.split='validation' needs held-out examples; set config.data.holdout, "
            "for instance to 5000"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns what differs between two experiments, as ``field: old -> new``, operational aside.

    Args:
      old: of the run in a workdir, as nested JSON-able values. A field that it lacks, as written
        by a version that did not know it, has its default.
      new: as asked for now.
    """
    defaults = _flatten(to_jsonable(default_config()))
    flat_old, flat_new = defaults | _flatten(old), _flatten(new)
    names = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"config.{name}: {flat_old.get(name, '(absent)')!r} -> {flat_new.get(name, '(absent)')!r}"
        for name in names
        if name.split(".")[0] not in OPERATIONAL and flat_old.get(name) != flat_new.get(name)
    ]


def to_jsonable(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as nested dictionaries of JSON-able values, tuples as lists."""
    return {
        name: to_jsonable(value)
        if isinstance(value, ml_collections.ConfigDict)
        else (list(value) if isinstance(value, tuple) else value)
        for name, value in sorted(config.items())
    }


def from_jsonable(document: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that `to_jsonable` wrote, over the defaults; unknown fields are an error.

    Raises:
      KeyError: a field is unknown to this version; names it.
    """
    config = default_config()
    known = _flatten(to_jsonable(config)).keys()
    for name, value in _flatten(document).items():
        if name not in known:
            raise KeyError(f"config.{name} is not a field of this version of accordion_jax")
        *sections, field = name.split(".")
        section = config
        for each in sections:
            section = section[each]
        section[field] = tuple(value) if isinstance(value, list) else value
    return config


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
