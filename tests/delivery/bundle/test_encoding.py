"""Which measured models a bundle names."""

import pytest

from accordion_jax.delivery.bundle.encoding import Measured, encoded_parts
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.ordering import blockwise, rungs_of, uniform
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.models import describe
from tests.delivery.resnets import INPUT, make_resnet


@pytest.mark.parametrize("last", [90, 350])
def test_what_errs_no_less_than_the_same_blocks_in_fewer_bytes_is_left_out(last):
    model, variables, ladder, table = make_resnet()
    names = {"base_names": model.base_names, "block_names": model.block_names}
    chains = Chains(fold_norms(variables), **names, bits=(4, 8))
    order = blockwise(ladder, model.block_names, 2)
    # Errors of all blocks with no, one ... and all refinements, and of fewer blocks in 8 bits.
    errors = dict(zip([f"coml-3.4-8.{i}" for i in range(1, 4)], [300, 200, 100], strict=True))
    errors |= {"coml-3.4": 200, "coml-3.8": last, "coml-2.4": 300, "coml-2.8": 300}
    errors |= {"coml-1.4": 400, "coml-1.8": 399, "coml-0.4": 900, "coml-0.8": 950}
    rungs = [*rungs_of(order, ladder, model.block_names), *uniform(ladder, model.block_names, 1)]
    parts = encoded_parts(
        chains,
        order,
        [(rung, Measured(1000, errors[rung.name((4, 8))], 1.0)) for rung in rungs],
        description=describe(model) | {"input": INPUT, "classes": None},
        table=table,
        facts={"bits": [4, 8]},
    )
    named = ["coml-0.4", "coml-1.4", "coml-1.8", "coml-2.4", "coml-3.4", "coml-3.4-8.3", "coml-3.8"]
    assert sorted(each["name"] for each in parts["ladder"]) == named
    # All in all bits stays, however it errs, and brings every segment.
    assert parts["ladder"][-1]["name"] == "coml-3.8"
    assert parts["table"].rows[-1].errors == last
    assert set(parts["ladder"][-1]["segments"]) == set(parts["segments"])
