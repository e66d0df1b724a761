"""Runs that learn from another network than their own deepest."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from accordion_jax import data, models, training
from accordion_jax.training.together import Together
from tests.remedies.refusals import refused
from tests.training.test_loop import assert_same, make

DEEPER = {"model__arguments__stage_sizes": (2, 1), "objective__name": "drawn_depth"}
TAUGHT = {
    "objective__name": "expected",
    "objective__distillation": 1.0,
    "objective__temperature": 2.0,
}


@pytest.fixture(scope="module")
def school(tmp_path_factory):
    """Workdir of a trained network, deeper than those of the tests."""
    workdir = tmp_path_factory.mktemp("school")
    experiment = make(train__steps=20, **DEEPER)
    training.claim_workdir(workdir, experiment, write=True)
    training.train(experiment, workdir)
    return workdir


def taught(school, **fields):
    return make(train__teacher=str(school), **TAUGHT | fields)


def trained(experiment, workdir):
    return data.unreplicate(training.train(experiment, workdir))


def with_other_labels(experiment):
    """The same experiment, whose right answers are all the first class."""
    task, inputs = experiment.train.task, experiment.train.inputs
    targets = np.zeros_like(experiment.train.targets)
    train = dataclasses.replace(experiment.train, inputs=inputs, targets=targets, task=task)
    return dataclasses.replace(experiment, train=train)


def test_where_all_is_learnt_from_it_right_answers_do_not_matter(school, tmp_path):
    experiment = taught(school)
    with_them = trained(experiment, tmp_path / "right")
    assert_same(with_them, trained(with_other_labels(experiment), tmp_path / "other"))
    # In place, the deepest learns from the right answers, and the others from it.
    alone = make(**TAUGHT)
    in_place = trained(alone, tmp_path / "in place")
    elsewhere = trained(with_other_labels(alone), tmp_path / "in place, other")
    head = [jax.tree.leaves(each.params["head"])[-1] for each in (in_place, elsewhere)]
    assert np.any(head[0] != head[1])


def test_its_answers_are_those_in_use_at_its_full_depth(school):
    teacher = taught(school).teacher
    run = training.load_run(school)
    assert models.describe(teacher.model)["arguments"]["stage_sizes"] == [2, 1]
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    wanted = run.model.apply(run.variables, x, train=False)
    np.testing.assert_array_equal(teacher.answers(teacher.variables, x), wanted)


def test_pupils_come_nearer_to_it(school, tmp_path):
    experiment = taught(school, train__steps=40)
    teacher = experiment.teacher
    x = experiment.task.prepare(experiment.train.inputs[:256])
    soft = jax.nn.softmax(teacher.answers(teacher.variables, x))

    def distance(variables):
        return float(np.abs(jax.nn.softmax(experiment.model.apply(variables, x)) - soft).mean())

    after = trained(experiment, tmp_path)
    assert distance(after.variables) < 0.7 * distance(experiment.init().variables)
    (record, *_), (*_, last) = [training.read_metrics(tmp_path / "metrics.jsonl")] * 2
    assert last["distillation_loss"] < record["distillation_loss"]


def test_a_run_that_is_taught_goes_on_where_it_stopped(school, tmp_path):
    fields = {"objective__distillation": 0.5}
    whole = trained(taught(school, **fields), tmp_path / "whole")
    training.train(taught(school, train__steps=3, **fields), tmp_path / "broken")
    assert_same(whole, trained(taught(school, **fields), tmp_path / "broken"))


def test_seeds_that_are_trained_at_once_have_one_teacher(school, tmp_path):
    one = taught(school, policy__seed=0)
    together = Together([one, one.with_seed(1)])
    states = training.train_together(together, [tmp_path / "0", tmp_path / "1"])
    alone = trained(one.with_seed(1), tmp_path / "alone")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        data.unreplicate(states[1]),
        alone,
    )


@pytest.mark.tries("set the share of its soft labels, such as 0.5")
def test_a_teacher_wants_a_share_of_the_loss(school):
    with refused() as said:
        taught(school, objective__distillation=0.0)
    share = float(re.findall(r"such as ([\d.]+)", said[0])[0])
    assert taught(school, objective__distillation=share).draw(0).distillation == share


@pytest.mark.tries("or, to distill, name another network as config.train.teacher")
def test_one_configuration_a_step_can_learn_from_another_network(school):
    alone = {"objective__name": "drawn_depth", "objective__distillation": 0.5}
    with refused():
        make(**alone)
    assert taught(school, **alone).draw(0).taught == (0,)
    assert taught(school, objective__name="sandwich").draw(0).taught == (0, 1)
    with pytest.raises(ValueError, match=r"balanced=True want several configurations"):
        taught(school, **alone, objective__balanced=True)


def test_what_cannot_teach_is_refused_in_words(school, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _ = taught(tmp_path / "nowhere").teacher
    teacher, pupil = taught(school).teacher, make()
    wide = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match=r"teacher='that' is a network for other inputs"):
        teacher.check(pupil.model, wide, "that")
    hundred = models.build(
        {"family": "resnet", "arguments": {"stage_sizes": [1], "channels": [4], "num_classes": 100}}
    )
    with pytest.raises(ValueError, match="has 10 classes, and this run 100; wanted"):
        teacher.check(hundred, pupil.example, "that")


def test_a_run_says_in_its_name_that_it_was_taught(school):
    assert training.run_name(taught(school).config).endswith("-expected-distilled-taught")
