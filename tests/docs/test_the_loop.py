"""docs/examples/loop.py, small: from what devices ask for to the next network."""

import json
import subprocess
import sys

import pytest

from accordion_jax.depth import LookupTable
from accordion_jax.depth.policy_file import PolicyFile
from tests.commands import ROOT, command_environment


@pytest.mark.slow
def test_what_was_asked_for_is_what_the_next_network_is_trained_for(tmp_path):
    tiny = (
        "--config.model.arguments.stage_sizes=(1,1,1)",
        "--config.model.arguments.channels=(4,4,4)",
        "--config.train.steps=4",
        "--config.sweep.examples=64",
        "--config.run.eval_examples=64",
    )
    done = subprocess.run(
        [sys.executable, "docs/examples/loop.py", f"--out={tmp_path}", "--devices=80", "--", *tiny],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 devices over 20 links asked in" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "plans.jsonl").read_text().splitlines()]
    assert len(lines) == 80
    assert {tuple(sorted(line)) for line in lines} == {
        ("configuration", "model", "plan", "requirements")
    }
    policy = PolicyFile.read(tmp_path / "asked.json")
    kept = json.loads((tmp_path / "second" / "policy.json").read_text())
    assert kept["probabilities"] == pytest.approx(policy.probabilities)
    assert kept["made_of"]["content"]["provenance"] == policy.provenance
    facts = LookupTable.read(tmp_path / "second").provenance
    assert facts["policy"] == {"name": "file", "digest": kept["digest"]}
    assert facts["name"] == "quickstart-asked"
