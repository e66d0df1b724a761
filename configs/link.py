"""Policies compared over measured links: ResNet-20 on CIFAR-10, all with the same arithmetic.

python -m accordion_jax.main --config=configs/link.py:05_drawn

The variant is POLICY_OBJECTIVE or POLICY_OBJECTIVE_EPOCHS. The policy is a key of PAPERS, or a file
of results/link/policies by its name; the objective is a key of OBJECTIVES. `resnet` is the plain
network, trained whole, and `pilot` the run whose table on held-out images comes first: the demand
and the references of minimax are from it. Every run computes as many multiply-accumulates as EPOCHS
of the full model, all of one cosine cycle: a policy that draws small depths takes more steps.
docs/policies.md has the commands of the whole grid, and what came out.
"""

import pathlib
import re

from accordion_jax.depth import LookupTable, make_ladder, make_policy
from accordion_jax.runs.config import default_config

EPOCHS = 4.0

# Policy -> fields of the config. 01 is the uniform one: ten configurations, a tenth each.
PAPERS = {
    "01": {"policy.full_probability": 0.1, "policy.min_depth": 0},
    "03": {"policy.full_probability": 0.3},
    "05": {"policy.full_probability": 0.5},
}
# Objective -> fields of the config.
OBJECTIVES = {
    "drawn": {},
    "expected": {"objective.name": "expected", "objective.distillation": 0.5},
    "minimax": {"objective.name": "minimax", "objective.distillation": 0.5},
    "nested": {"objective.name": "nested"},
}
FITTED = "results/link/policies"
PILOT = "results/link/pilot/link_pilot-05-expected-distilled_seed0"

_STAGE_SIZES = (3, 3, 3)
# Multiply-accumulates for one image: two convolutions of 3 x 3 x 16 x 16 weights on a map of
# 32 x 32, and as many in each of the other stages; stem and head.
_BLOCK_MACS = 2 * 9 * 16 * 16 * 32 * 32
_BASE_MACS = 9 * 3 * 16 * 32 * 32 + 64 * 10

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def variants():
    """Returns the names of all variants: the grid of the experiment."""
    policies = [*PAPERS, *sorted(path.stem for path in (_ROOT / FITTED).glob("*.json"))]
    pairs = [f"{policy}_{name}" for name in ("drawn", "expected") for policy in policies]
    return [*pairs, "01_minimax", "05_nested", "link_nested", "resnet"]


def get_config(variant="05_drawn"):
    policy, _, rest = variant.partition("_")
    objective, _, epochs = rest.partition("_")
    alone = policy in ("resnet", "pilot")
    if alone:
        objective, epochs = "", rest
    epochs = epochs or str(EPOCHS)
    fitted = f"{FITTED}/{policy}.json"
    known = alone or policy in PAPERS or (_ROOT / fitted).is_file()
    of_length = re.fullmatch(r"\d+(\.\d+)?", epochs)
    if not (known and of_length and objective in (("",) if alone else OBJECTIVES)):
        raise ValueError(
            f"variant {variant!r} is not known; wanted pilot, or one of {', '.join(variants())}, "
            "with _EPOCHS behind it for other than the file's"
        )
    config = default_config()
    config.name = f"link_{policy}" if alone else "link_coml"
    config.model.arguments.stage_sizes = _STAGE_SIZES
    config.data.name = "cifar10"
    if policy == "resnet":
        config.scheme = "resnet"
    elif policy == "pilot":
        config.update_from_flattened_dict(OBJECTIVES["expected"])
        config.data.holdout = 5000
        config.sweep.split = "validation"
    else:
        named = {"policy.name": "file", "policy.path": fitted}
        config.update_from_flattened_dict(PAPERS.get(policy, named) | OBJECTIVES[objective])
    if objective == "minimax":
        rows = LookupTable.read(_ROOT / PILOT).rows
        config.objective.references = tuple(round(row.cross_entropy, 4) for row in rows)
    config.policy.seed = 0  # seeds that are trained at once draw the same depths
    config.train.batch_size = 128
    config.train.epochs = round(float(epochs) / _share_of_work(config), 2)
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = min(0.4, config.train.epochs / 10)
    config.optimizer.nesterov = True
    config.run.eval_every_epochs = 2.0
    config.run.eval_examples = 2000
    config.run.checkpoint_every_epochs = 5.0
    return config


def _share_of_work(config):
    """Multiply-accumulates of the config's mean step over those of one of the full model."""
    if config.scheme == "resnet" or config.objective.name not in ("drawn_depth", "nested"):
        return 1.0  # all depths come out of one pass through the deepest
    ladder, chosen = make_ladder(config.scheme, _STAGE_SIZES), config.policy
    if chosen.name == "file":
        policy = make_policy("file", ladder, {"path": _ROOT / chosen.path})
    else:
        fields = {name: chosen[name] for name in ("full_probability", "min_depth")}
        policy = make_policy(chosen.name, ladder, fields)
    macs = [_BASE_MACS + each.depth * _BLOCK_MACS for each in ladder]
    return policy.expectation(macs) / macs[-1]
