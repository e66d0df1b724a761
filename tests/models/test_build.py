"""A network described as JSON, and built again."""

import json

import jax.numpy as jnp
import pytest

from accordion_jax.models import FAMILIES, ResNet, build, describe


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
    with pytest.raises(ValueError, match=rf"family {family!r} is not known; known: \['resnet'\]"):
        build(description)


def test_an_unknown_argument_is_named():
    with pytest.raises(ValueError, match=r"resnet has no argument 'width'; it has \['axis_name'"):
        build({"family": "resnet", "arguments": {"num_classes": 10, "width": 2}})
    with pytest.raises(ValueError, match="resnet has no argument 'depth'"):
        build(describe(ResNet(10)), depth=3)
    with pytest.raises(ValueError, match="resnet has no argument 'parent'"):
        build({"family": "resnet", "arguments": {"num_classes": 10, "parent": 1}})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_offers_what_the_other_rooms_ask_for(family):
    model = FAMILIES[family](num_classes=10)
    units = {*model.base_names, *model.block_names}
    assert len(model.block_names) == sum(model.stage_sizes)
    assert model.unit_macs((32, 32, 3)).keys() == units
    assert callable(model)
    assert callable(model.truncations)
