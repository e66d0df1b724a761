"""Policy files: what was written is read, and what is of another ladder is refused."""

import dataclasses
import hashlib
import json
import math

import pytest

from accordion_jax.depth import Policy, make_ladder, make_policy
from accordion_jax.depth.policy_file import Entry, PolicyFile, file_digests

COML = make_ladder("coml", (1, 2))


def policy_of(ladder, probabilities, scheme="coml"):
    entries = tuple(
        Entry(each.name, ladder.stage_blocks(each), 100 * (i + 1), probability)
        for i, (each, probability) in enumerate(zip(ladder, probabilities, strict=True))
    )
    return PolicyFile(scheme, entries, {"fitted_to": "link"}, {"command": "by hand"})


SOME = policy_of(COML, (0.1, 0.2, 0.3, 0.4))


def test_what_was_written_is_read(tmp_path):
    SOME.write(tmp_path / "p.json")
    assert PolicyFile.read(tmp_path / "p.json") == SOME
    assert SOME.probabilities == (0.1, 0.2, 0.3, 0.4)
    assert SOME.stage_sizes == (1, 2)


def test_a_policy_over_every_stage_is_on_its_own_ladder():
    ladder = make_ladder("blockcoml", (2, 2))
    assert policy_of(ladder, (0.2, 0.3, 0.5), "blockcoml").on(ladder) == (0.2, 0.3, 0.5)


@pytest.mark.parametrize("scheme", ["coml", "resnet"])
def test_on_its_ladder_each_configuration_has_its_probability(scheme):
    # A policy that was fitted with the plain network's table trains a network of any depth.
    assert SOME.on(make_ladder(scheme, (1, 2))) == SOME.probabilities


def test_what_was_not_swept_is_not_drawn_and_precisions_of_one_depth_add_up():
    some, full = SOME.entries[1], SOME.entries[3]
    entries = tuple(
        dataclasses.replace(each, name=name, probability=p)
        for each, name, p in ((some, "8 bits", 0.25), (some, "32 bits", 0.25), (full, "full", 0.5))
    )
    assert PolicyFile("coml", entries, {}, {}).on(COML) == (0, 0.5, 0, 0.5)


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        (make_ladder("coml", (2, 2)), r"its full model has \(1, 2\).*the one to train \(2, 2\)"),
        (make_ladder("blockcoml", (1, 2)), r"'coml-1' keeps \(1, 0\) blocks a stage"),
    ],
)
def test_a_policy_of_another_ladder_is_refused(tmp_path, ladder, message):
    with pytest.raises(ValueError, match=message):
        SOME.on(ladder)
    SOME.write(tmp_path / "p.json")
    with pytest.raises(ValueError, match=r"p\.json: the policy is of another ladder"):
        make_policy("file", ladder, {"path": str(tmp_path / "p.json")})


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ((0.1, 0.2, 0.3, 0.3), r"sum to 0\.9, not to 1"),
        ((-0.1, 0.4, 0.3, 0.4), r"probability 0 of the policy is -0\.1"),
        ((math.nan, 0.4, 0.3, 0.3), "probability 0 of the policy is nan"),
    ],
)
def test_what_is_no_distribution_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        policy_of(COML, probabilities)


def changed(**changes):
    return json.loads(SOME.to_json()) | changes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no policy file"),
        (json.dumps({"probabilities": [1.0]}), "is no policy file"),
        (json.dumps(changed(configurations=[])), "is damaged"),
        (json.dumps(changed(configurations=[{"name": "x"}])), "is damaged"),
        (json.dumps(changed(configurations=[[1]])), "is damaged"),
        (json.dumps(changed(facts=None)), "is damaged"),
        (SOME.to_json().replace("0.4", "0.3"), r"p: the policy's 4 .* sum to 0\.9"),
        (SOME.to_json().replace("0.4", '"0.4"'), "is damaged"),
    ],
)
def test_a_damaged_file_is_told_in_words(text, message):
    with pytest.raises(ValueError, match=message):
        PolicyFile.from_json(text, "p")


def test_a_run_is_made_of_the_content_and_not_of_the_path(tmp_path):
    for folder in ("a", "b"):
        SOME.write(tmp_path / folder / "p.json")
    made = [make_policy("file", COML, {"path": str(tmp_path / f / "p.json")}) for f in "ab"]
    assert made[0].describe() == made[1].describe()
    assert str(tmp_path) not in json.dumps(made[0].describe())
    assert made[0].made_of["content"]["provenance"] == {"command": "by hand"}
    other = policy_of(COML, (0.2, 0.2, 0.3, 0.3))
    other.write(tmp_path / "a" / "p.json")
    assert isinstance(made[0], Policy)
    again = make_policy("file", COML, {"path": str(tmp_path / "a" / "p.json")})
    assert again.describe()["digest"] != made[0].describe()["digest"]


def test_a_policy_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no policy file at .*nothing"):
        make_policy("file", COML, {"path": str(tmp_path / "nothing")})
    with pytest.raises(ValueError, match=r"needs config\.policy\.path"):
        make_policy("file", COML, {})
    (tmp_path / "p").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        PolicyFile.read(tmp_path / "p")


def test_inputs_are_known_by_their_digests(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x")
    assert file_digests(tmp_path / "a.csv") == {"a.csv": hashlib.sha256(b"x").hexdigest()}
