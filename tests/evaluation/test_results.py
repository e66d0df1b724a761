"""What becomes of a sweep: the error under the policy, and a table before its picture."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from accordion_jax.data import Dataset
from accordion_jax.depth import LookupTable, Policy, UnitCost, make_ladder
from accordion_jax.evaluation import Counts, make_evaluate, make_table, summarise, write_results
from accordion_jax.tasks import Images

LADDER = make_ladder("coml", (1, 1, 1))
CLASSES, EXAMPLES = 4, 40


class Known(nn.Module):
    """A stand-in for a network: it is right on the first 10, 20, 30 or 40 images of 40."""

    def truncations(self, images, *, skip_masks, train=False):
        number = images[:, 0, 0, 0].astype(jnp.int32)
        outputs = []
        for mask in skip_masks:
            right = number < 10 * (1 + len(mask) - sum(mask))
            classes = (number + jnp.where(right, 0, 1)) % CLASSES
            outputs.append(jnp.eye(CLASSES, dtype=jnp.float32)[classes])
        return jnp.stack(outputs)


def numbered():
    images = np.arange(EXAMPLES, dtype=np.uint8).reshape(-1, 1, 1, 1)
    targets = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
    return Dataset("numbered", Images((1, 1, 1), (0.0,), (1 / 255,)), images, targets, CLASSES)


ERRORS = (0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize(
    ("probabilities", "error"),
    [
        ((0.0, 0.0, 0.0, 1.0), 0.0),
        ((0.0, 0.25, 0.25, 0.5), 0.1875),
        ((0.7, 0.2, 0.1, 0.0), 0.65),  # the full model is never drawn
        ((0.25, 0.25, 0.25, 0.25), 0.375),
    ],
)
def test_the_error_under_a_policy_is_its_expectation(probabilities, error):
    policy = Policy(probabilities)
    assert policy.expectation(ERRORS) == pytest.approx(error)
    evaluate = make_evaluate(Known(), LADDER, policy, numbered(), batch_size=8)
    found = evaluate({})
    assert found.pop("error") == pytest.approx(error)
    drawn = {f"error_depth_{i}": ERRORS[i] for i in range(4) if probabilities[i]}
    assert found == pytest.approx(drawn)


def test_a_long_ladder_shows_a_few_and_counts_all():
    ladder = make_ladder("coml", (4, 4, 4))
    policy = Policy((1 / 13,) * 13)
    evaluate = make_evaluate(Known(), ladder, policy, numbered(), batch_size=8)
    found = evaluate({})
    errors = [max(0.0, 0.75 - 0.25 * depth) for depth in range(13)]
    assert found.pop("error") == pytest.approx(policy.expectation(errors))
    assert len(found) == 5


FACTS = {"name": "run", "dataset": "digits", "split": "test", "precision": "float32"}


def table_of(cross_entropy):
    counts = Counts(EXAMPLES, np.array([30, 20, 10, 0]), np.array(cross_entropy))
    blocks = (UnitCost(10, 80, 200),) * 3
    return make_table(LADDER, counts, UnitCost(5, 40, 100), blocks, FACTS)


def test_results_are_a_table_and_its_picture(tmp_path):
    table = table_of([1.5, 1.0, 0.5, 0.25])
    paths = write_results(table, tmp_path)
    assert sorted(path.name for path in paths) == sorted(
        ["error_vs_size.png", "lookup_table.csv", "lookup_table.json"]
    )
    assert LookupTable.read(tmp_path) == table
    assert "top-1 error (95 % interval)" in summarise(table)


def test_a_diverged_run_is_told_in_words_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"cross_entropy=nan"):
        write_results(table_of([float("nan"), 1.0, 0.5, 0.25]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_number_is_called_what_the_task_calls_it(tmp_path):
    table = table_of([1.5, 1.0, 0.5, 0.25])
    tokens = LookupTable(table.rows, FACTS | {"error_name": "token error"})
    write_results(tokens, tmp_path)
    assert "token error (95 % interval)" in summarise(tokens)
    document = json.loads((tmp_path / "lookup_table.json").read_text())
    assert document["provenance"]["error_name"] == "token error"
