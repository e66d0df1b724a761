"""The fields of an experiment, their defaults, and what may not change in the middle of a run.

A config file in ``configs/`` starts from `default_config` and sets what differs. A family of
networks, an objective, a policy, an optimizer or a task may have fields of its own:
``model.arguments``, ``objective``, ``policy``, ``optimizer.arguments`` and ``data`` pass on what
they hold unread, to whom it is for, who refuses what it does not know. All other unknown fields
are refused here; values are checked by `validate`.
"""

import difflib
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

# Sections that say how a run is carried out or read, not what is trained: these may change between
# two calls with the same workdir.
OPERATIONAL = ("run", "sweep")

# Sections that may hold fields which the default config does not have.
OPEN = ("model.arguments", "optimizer.arguments", "objective", "policy", "data")

# Where fields of earlier versions are now.
MOVED = {
    "model.stage_sizes": "model.arguments.stage_sizes",
    "model.channels": "model.arguments.channels",
    "objective": "objective.name",
}


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
    config.model.family = "resnet"  # a key of models.FAMILIES
    # Passed on to the family; another one has others: replace the whole section.
    config.model.arguments = ml_collections.ConfigDict()
    config.model.arguments.stage_sizes = (18, 18, 18)  # blocks a stage: ResNet-(6n+2) is (n, n, n)
    config.model.arguments.channels = (16, 32, 64)
    config.model.arguments.own_heads = False  # whether each block holds a head of its own
    config.model.dtype = "float32"  # of the computation; parameters are float32
    # Batch norm over the whole batch; False normalises with each device's own shard.
    config.model.cross_replica_batch_norm = False

    config.objective = ml_collections.ConfigDict()
    # What a step minimises: a key of training.OBJECTIVES. The paper's is "drawn_depth", one drawn
    # configuration; "expected" is all of them, "nested" and "sandwich" are some; "minimax" is all,
    # with weights that follow their losses.
    config.objective.name = "drawn_depth"
    config.objective.deepest_weight = (
        0.5  # of "nested": of the drawn one; the smaller share the rest
    )
    config.objective.draws = 1  # of "sandwich": how many between the smallest and the largest
    config.objective.rate = 0.01  # of "minimax": of the weights, a step and nat of excess
    config.objective.floor = 0.1  # of "minimax": share of the policy that no weight falls below
    # Of "minimax": what the loss of each configuration could be, in nats, the base alone first.
    config.objective.references = ()
    # Of all that work on several configurations in a step:
    config.objective.distillation = 0.0  # share of the deepest's soft labels in the others' loss
    config.objective.temperature = 1.0  # of the soft labels
    config.objective.balanced = False  # weigh each configuration's loss by its own inverse too

    config.policy = ml_collections.ConfigDict()
    config.policy.name = "full_or_uniform"  # a key of depth.POLICIES; the other fields are its own
    config.policy.full_probability = 0.5  # of drawing the full model; the rest is uniform
    config.policy.min_depth = 1  # blocks in the smallest configuration that is drawn
    # Of policy "listed": one a configuration, smallest (the base alone) first.
    config.policy.probabilities = ()
    # Of policy "file": what accordion_jax.policy has written.
    config.policy.path = ""
    config.policy.depth = 0  # of policy "only": blocks of the one that is always drawn
    # Of the draws; -1: config.seed. Seeds that are trained at once need the same draws.
    config.policy.seed = -1

    config.data = ml_collections.ConfigDict()
    config.data.name = "cifar100"  # a key of data.LOADERS: "cifar10", "cifar100" or "digits"
    config.data.dir = ""  # empty: TFDS's own default
    config.data.holdout = 0  # training examples kept aside as the split "validation"
    # The other fields are the task's, here those of images.
    config.data.pad = 4  # pixels of zero padding around the random crop
    config.data.flip = True  # random horizontal flips

    config.train = ml_collections.ConfigDict()
    config.train.epochs = 164.0
    config.train.steps = 0  # length in steps instead, where not 0; epochs still time the schedule
    config.train.batch_size = 124  # over all devices
    # Workdir of a trained run of the same network, or folder of a bundle, whose weights this one
    # begins with.
    config.train.start_from = ""
    # Likewise of a network for the same inputs and classes, whose answers at its full depth are the
    # soft labels of config.objective.distillation; empty: those of this network's deepest.
    config.train.teacher = ""
    # Bits a weight that each block computes with in a step: one of these, drawn for each block and
    # step, such as (4, 8) for a bundle in 4 and 8 bits. None: weights are as they are.
    config.train.bits = ()
    # Share of the blocks' weights that are zero from the first step on: those that matter least of
    # what the run starts from, as training.pruning says.
    config.train.sparsity = 0.0
    # Whether own heads (config.model.arguments.own_heads) are fitted, before the first step, to
    # what the network that the run starts from finds, as training.heads says.
    config.train.fit_heads = False
    # First bits of the bundle that the run starts from, whose levels its convolutions keep: what is
    # trained is what a refinement adds to them, as training.within says. 0: all.
    config.train.within_bits = 0

    config.optimizer = ml_collections.ConfigDict()
    # "sgd" as He et al., or a function of Optax by its name, such as "adamw" or "lion".
    config.optimizer.name = "sgd"
    config.optimizer.arguments = ml_collections.ConfigDict()  # passed on to the function of Optax
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"  # "step" or "cosine"
    config.optimizer.decay_epochs = (82.0, 123.0)  # of "step"
    config.optimizer.decay_factor = 0.1  # of "step"
    config.optimizer.warmup_epochs = 0.0  # linear, from 0
    config.optimizer.momentum = 0.9  # of "sgd"
    config.optimizer.nesterov = False  # of "sgd"
    # Passed on where the function of Optax takes it; else it is added to the gradients.
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
    # Batches to measure the batch-norm statistics of each configuration on that skips blocks before
    # others, after training; 0: all share those of training. 60 leave nothing of these.
    config.sweep.own_statistics = 0
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
    always trains the full model, and has none; another policy's name is the suffix (``custom`` for
    ``listed``, the file's own name for ``file``). Another objective than the paper's is named after
    it, as is what changes its loss.
    """
    name, policy, objective = config.name, config.policy, config.objective
    if policy.name != "full_or_uniform":
        names = {"listed": "custom", "file": pathlib.PurePath(policy.get("path", "")).stem}
        name += f"-{names.get(policy.name) or policy.name}"
    elif config.scheme != "resnet":
        name += f"-{f'{policy.full_probability:g}'.replace('.', '')}"
    if objective.name != "drawn_depth":
        name += f"-{objective.name}"
    changes = {"distilled": "distillation", "balanced": "balanced"}
    name += "".join(f"-{word}" for word, each in changes.items() if objective.get(each))
    name += "-taught" if config.train.teacher else ""
    bits = "-".join(map(str, config.train.bits))
    name += f"-{bits}bits" if bits else ""
    name += f"-within{config.train.within_bits}" if config.train.within_bits else ""
    share = config.train.sparsity
    return name + (f"-{100 * share:g}zeros".replace(".", "_") if share else "")


# Least and most of each number, where the field is there.
_BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),  # JAX's keys take 32 bits
    "policy.seed": (-1, 2**63 - 1),
    "data.holdout": (0, math.inf),
    "train.epochs": (0, 1e9),
    "train.steps": (0, 1e12),
    "train.batch_size": (1, math.inf),
    "train.sparsity": (0, 0.99),
    "train.within_bits": (0, 7),
    "optimizer.learning_rate": (0, 1e9),
    "optimizer.warmup_epochs": (0, 1e9),
    "optimizer.weight_decay": (0, 1e9),
    "run.compile_workers": (0, math.inf),
    "run.log_every_steps": (1, math.inf),
    "run.checkpoint_every_epochs": (0, 1e9),
    "run.checkpoint_every_steps": (0, math.inf),
    "run.keep_checkpoints": (1, math.inf),
    "run.eval_every_epochs": (0, 1e9),
    "run.eval_examples": (0, math.inf),
    "sweep.examples": (0, math.inf),
    "sweep.own_statistics": (0, 1e6),
    "sweep.batch_size": (1, math.inf),
    "sweep.bits_per_parameter": (0, math.inf),
}
_CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "optimizer.schedule": ("step", "cosine"),
    "run.compile": ("background", "lazy", "ahead"),
    "sweep.split": ("test", "validation"),
    "sweep.checkpoint": ("latest", "best"),
}

# As the encodings of a bundle.
_BITS = (*range(1, 9), 16, 32)


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks fields that no other part would refuse in words.

    Raises:
      ValueError: names the field, its value and what is wanted.
    """
    fields = flatten(to_jsonable(config))
    _refuse_unknown(fields)
    for name, allowed in _CHOICES.items():
        if (value := fields[name]) not in allowed:
            raise ValueError(
                f"config.{name}={value!r} must be one of {allowed}{_did_you_mean(value, allowed)}"
            )
    for name, (least, most) in _BOUNDS.items():
        value = fields[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"config.{name}={value!r} must be a number")
        if not value >= least:
            raise ValueError(f"config.{name}={value} must be at least {least}")
        if not value <= most:
            raise ValueError(f"config.{name}={value} must be at most {most:g}")
    for bits in fields["train.bits"]:
        if bits not in _BITS or isinstance(bits, bool):
            raise ValueError(
                f"config.train.bits has {bits!r}; a weight has one of {_BITS} bits, such as in "
                "--config.train.bits=4,8"
            )
    if fields["train.fit_heads"] and not fields["train.start_from"]:
        raise ValueError(
            "config.train.fit_heads=True fits heads to what a trained network finds; set "
            "config.train.start_from to a run or a bundle"
        )
    if fields["train.within_bits"] and not fields["train.start_from"]:
        raise ValueError(
            f"config.train.within_bits={fields['train.within_bits']} keeps the first bits of a "
            "bundle; set config.train.start_from to it"
        )
    for bits in fields["train.bits"]:
        if bits <= (within := fields["train.within_bits"]):
            raise ValueError(
                f"config.train.bits has {bits}, and config.train.within_bits={within} trains what "
                "more bits add to so many; wanted more, or within_bits=0"
            )
    if fields["train.sparsity"] and not fields["train.start_from"]:
        raise ValueError(
            f"config.train.sparsity={fields['train.sparsity']} keeps the largest weights of a "
            "trained network; set config.train.start_from to a run or a bundle"
        )
    if not 0 <= config.optimizer.momentum < 1:
        raise ValueError(f"config.optimizer.momentum={config.optimizer.momentum} must be in [0, 1)")
    if config.sweep.split == "validation" and not config.data.holdout:
        raise ValueError(
            "config.sweep.split='validation' needs held-out examples; set config.data.holdout, "
            "for instance to a tenth of the training examples (5000 of CIFAR's)"
        )


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    defaults = flatten(to_jsonable(default_config()))
    for name in defaults:
        if name not in fields and not is_open(name):
            raise ValueError(f"config.{name} is missing; start from default_config()")
    needed = ("data.name", "data.dir", "data.holdout", "objective.name", "policy.name")
    for name in (*needed, "policy.seed"):
        if name not in fields:
            raise ValueError(f"config.{name} is missing; set it beside the section's own fields")
    for name in fields:
        if name in defaults or is_open(name):
            continue
        if name in MOVED:
            raise ValueError(f"config.{name} is now config.{MOVED[name]}")
        raise ValueError(f"config.{name} is not a field{_did_you_mean(name, defaults)}")


def is_open(name: str) -> bool:
    """Whether a field lies in a section that may hold fields of its owner's own."""
    return any(name.startswith(f"{section}.") for section in OPEN)


def _did_you_mean(value: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(value), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def own_fields(
    config: ml_collections.ConfigDict, section: str, known: Iterable[str], whose: str
) -> dict[str, Any]:
    """Returns the fields of a section that the one it names has, such as a policy's own.

    Fields of the default config that belong to another (the paper's policy, SGD, images) are passed
    over, so that ``--config.policy.name`` alone chooses another.

    Args:
      config: of a run.
      section: "objective", "policy", "data" or "optimizer".
      known: names of the fields that are its own.
      whose: what to call it in an error.

    Raises:
      ValueError: the section has a field that is neither; names it.
    """
    known, defaults = tuple(known), default_config()[section]
    for name, value in config[section].items():
        if name not in known and name not in defaults:
            raise ValueError(
                f"config.{section}.{name}={value!r}: {whose} has no such field; it has "
                f"{', '.join(known) or 'none'}"
            )
    return {name: value for name, value in config[section].items() if name in known}


def to_jsonable(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as nested dictionaries of JSON-able values, tuples as lists."""
    return {
        name: to_jsonable(value)
        if isinstance(value, ml_collections.ConfigDict)
        else (_lists(value))
        for name, value in sorted(config.items())
    }


def changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config, as `to_jsonable` gives it, that are not those of another.

    Args:
      values: of the config.
      defaults: of the other, such as `default_config`.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            if below := changed(value, default):
                found[name] = below
        elif name not in defaults or value != default:
            found[name] = value
    return found


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, tuple | list) else value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by their whole names, such as ``policy.name``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
