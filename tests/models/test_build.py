"""A network described as JSON, and built again."""

import json
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from accordion_jax.models import FAMILIES, Network, ResNet, build, describe


@pytest.mark.parametrize(
    "model",
    [ResNet(10), ResNet(100, (9, 9, 9)), ResNet(7, (2, 1), (4, 6))],
    ids=["resnet110", "resnet56", "own"],
)
def test_a_described_network_is_built_again(model):
    description = describe(model)
    assert build(json.loads(json.dumps(description))) == model
    assert description["family"] == "resnet"
    assert set(description["arguments"]) == {"num_classes", "stage_sizes", "channels"}


def test_an_option_is_said_unless_it_is_off_by_default(monkeypatch):
    class Optional(nn.Module):
        num_classes: int
        deep: bool = True
        wide: bool = False

    monkeypatch.setitem(FAMILIES, "optional", Optional)
    said = [
        describe(Optional(3, deep, wide))["arguments"]
        for deep, wide in ((True, False), (False, True), (False, False))
    ]
    assert said == [
        {"num_classes": 3, "deep": True},
        {"num_classes": 3, "deep": False, "wide": True},
        {"num_classes": 3, "deep": False},
    ]


def test_where_and_how_a_network_runs_is_not_described():
    how = {"dtype": jnp.bfloat16, "axis_name": "batch", "scan_stages": True}
    model = ResNet(10, **how)
    assert describe(model) == describe(ResNet(10))
    again = build(describe(model), **how)
    assert again == model


def test_a_description_may_hold_more_than_the_network():
    description = describe(ResNet(10)) | {"input": {"shape": [32, 32, 3]}, "scheme": "coml"}
    assert build(description) == ResNet(10)


def test_build_does_not_change_the_description():
    description = describe(ResNet(10, (1, 1, 1)))
    before = json.dumps(description)
    build(description, dtype=jnp.bfloat16)
    assert json.dumps(description) == before


@pytest.mark.parametrize("description", [{"family": "vgg"}, {}])
def test_an_unknown_family_is_named(description):
    family = description.get("family")
    known = re.escape(str(sorted(FAMILIES)))
    with pytest.raises(ValueError, match=rf"family {family!r} is not known; known: {known}"):
        build(description)


def test_an_unknown_argument_is_named():
    with pytest.raises(ValueError, match=r"resnet has no argument 'width'; it has \['channels'"):
        build({"family": "resnet", "arguments": {"num_classes": 10, "width": 2}})
    with pytest.raises(ValueError, match="resnet has no argument 'depth'"):
        build(describe(ResNet(10)), depth=3)
    with pytest.raises(ValueError, match="resnet has no argument 'parent'"):
        build({"family": "resnet", "arguments": {"num_classes": 10, "parent": 1}})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_offers_what_the_other_rooms_ask_for(family):
    model = build({"family": family, "arguments": {"num_classes": 10}})
    assert isinstance(model, Network)
    units = {*model.base_names, *model.block_names}
    assert model.unit_macs((32, 32, 3)).keys() == units
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert shapes["params"].keys() == units


class Bare(nn.Module):
    """A family without any ability, and with an argument of its own."""

    num_classes: int
    width: int

    base_names = ("stem",)
    block_names = ("one", "two")
    stage_sizes = (2,)

    def truncations(self, inputs, *, skip_masks, train=False):
        return inputs

    def unit_macs(self, shape):
        return dict.fromkeys((*self.base_names, *self.block_names), 1)


def bare(monkeypatch, **attributes):
    monkeypatch.setitem(FAMILIES, "bare", type("Family", (Bare,), attributes))
    return {"family": "bare", "arguments": {"num_classes": 10, "width": 3}}


def test_abilities_are_asked_for_not_assumed(monkeypatch):
    description = bare(monkeypatch)
    model = build(description, dtype=jnp.dtype("float32"), axis_name=None, scan_stages=False)
    assert describe(model) == description
    for ability in ({"dtype": jnp.dtype("bfloat16")}, {"axis_name": "b"}, {"scan_stages": True}):
        with pytest.raises(ValueError, match="no network of family 'bare'"):
            build(description, **ability)


def test_a_missing_argument_is_named(monkeypatch):
    description = bare(monkeypatch) | {"arguments": {"num_classes": 10}}
    with pytest.raises(ValueError, match="bare needs the argument 'width'"):
        build(description)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"block_names": ("one", "one")}, "two units of one name"),
        ({"block_names": ("one",)}, r"names 1 blocks; stage_sizes=\(2,\) has 2"),
        ({"unit_macs": property(lambda self: [][0])}, None),
    ],
)
def test_a_family_that_breaks_the_contract_is_refused(monkeypatch, attributes, words):
    with pytest.raises((TypeError, IndexError), match=words):
        build(bare(monkeypatch, **attributes))


@pytest.mark.parametrize(
    "arguments",
    [
        {"stage_sizes": [1, 1, 1.0]},
        {"stage_sizes": []},
        {"stage_sizes": [1, 0, 1]},
        {"stage_sizes": [10**9] * 3},
        {"channels": [16, 32, True]},
        {"channels": "abc"},
        {"num_classes": 0},
        {"num_classes": 10**9},
    ],
)
def test_numbers_that_are_no_sizes_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        build({"family": "resnet", "arguments": {"num_classes": 10} | arguments})
