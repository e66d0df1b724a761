"""The replay command as a person runs it, where a model of its own is run."""

import numpy as np
import pytest

from tests.delivery.forests import write_forest
from tests.delivery.resnets import make_images, write_resnet


@pytest.fixture
def replay(tmp_path, run_command):
    (tmp_path / "link.csv").write_text("time_s,downlink_mbps\n0,1\n1,4\n2,2\n")

    def run(bundle, *flags, code=0):
        done = run_command(
            "accordion_jax.replay",
            f"--bundle={bundle}",
            f"--traces={tmp_path / 'link.csv'}",
            f"--out={tmp_path / 'out'}",
            "--starts=3",
            "--classes=10",
            *flags,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_eight_bits_are_measured_on_data_whose_shapes_were_checked(replay, tmp_path):
    bundle, *_ = write_resnet(tmp_path)
    images, labels = make_images(20), np.arange(20) % 10
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    said = replay(bundle, f"--data={tmp_path / 'x.npz'}").stdout
    error = float(said.partition("8 bits: error ")[2].split()[0])
    assert 0 <= error <= 1
    assert "measured on 20 images" in said
    np.savez(tmp_path / "x.npz", images=images, labels=labels[:, None])
    refused = replay(bundle, f"--data={tmp_path / 'x.npz'}", code=1).stderr
    assert "Take the one column: labels[:, 0]" in refused
    np.savez(tmp_path / "x.npz", images=images)
    assert "has no 'labels'" in replay(bundle, f"--data={tmp_path / 'x.npz'}", code=1).stderr


def test_a_forest_has_no_weights_of_eight_bits(replay, tmp_path):
    said = replay(write_forest(tmp_path)[0]).stdout
    assert "Accordion" in said
    assert "8 bits" not in said
