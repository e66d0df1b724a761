"""The decoders' benchmark: zlib inflates what is decoded, and a codec is held against ours."""

import sys

import numpy as np
import pytest

from accordion_jax.delivery.bundle.folding import fold_norms
from benchmarks.delivery.decoding import (
    beside_nnc,
    by_size,
    decoding,
    inflate,
    of_bundle,
    streams_of,
)
from benchmarks.delivery.encodings import random_variables, segments_of
from benchmarks.report import Report
from tests.benchmarks.tables import rows_of
from tests.commands import ROOT

# Stands in for a Python with nncodec: it "decodes" what it was given, rounded.
CODEC = f"""#!{sys.executable}
import json, pathlib, sys
import safetensors.numpy
worker, arrays, folder, *qps = sys.argv[1:]
assert pathlib.Path(worker).name == "nnc_worker.py"
found = {{}}
for qp in qps:
    arrays_ = safetensors.numpy.load_file(arrays)
    decoded = {{name: x.astype("float16").astype("float32") for name, x in arrays_.items()}}
    safetensors.numpy.save_file(decoded, f"{{folder}}/{{qp}}.safetensors")
    found[qp] = {{"bytes": 1000, "decode_s": [0.5, 0.5, 0.25]}}
pathlib.Path(folder, "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def variables():
    return fold_norms(random_variables(1))


@pytest.mark.parametrize("bits", [(4,), (2, 4)])
def test_zlib_alone_inflates_what_a_decoding_does(variables, bits):
    size, work = decoding(segments_of(variables)["stage1_block01"], bits)
    wanted = work()
    streams = streams_of(work)
    assert streams
    assert 0.5 * size < sum(len(stream) for stream, _ in streams) < size
    assert streams_of(lambda: inflate(streams)) == streams
    for name, array in work().items():
        np.testing.assert_array_equal(array, wanted[name])


def test_each_size_of_segment_has_a_row_for_each_step(variables, capsys):
    with Report("test") as report:
        by_size(report, segments_of(variables), repeats=1)
    found = rows_of(capsys.readouterr().out)
    assert len(found) == 5 * 5  # stem, three stages and head; three numbers of bits, two steps
    assert {row["bits"] for row in found} == {"2", "4", "8", "2 to 4", "4 to 8"}


def test_a_bundle_is_held_against_a_link(capsys, tmp_path):
    (bundle,) = (ROOT / "pretrained").glob("*/")
    with Report("test") as report:
        of_bundle(report, bundle, repeats=1)
        with pytest.raises(RuntimeError, match=f"--decoded={tmp_path} cannot be read"):
            of_bundle(report, tmp_path, repeats=1)
    (row,) = rows_of(capsys.readouterr().out)
    assert (row["bytes"], row["ms at 1 Gbit/s"]) == ("129,733", "1.04")


def test_a_codec_is_held_against_our_encodings(variables, capsys, tmp_path):
    python = tmp_path / "python"
    python.write_text(CODEC)
    python.chmod(0o755)
    with Report("test") as report:
        beside_nnc(report, variables, str(python), [-24], repeats=1)
    *ours, codec = rows_of(capsys.readouterr().out)
    assert [row["the network as"].partition(",")[0] for row in ours] == [
        *("4 bits", "6 bits", "8 bits"),
    ]
    assert (codec["the network as"], codec["bytes"]) == ("NNC qp -24", "1,000")
    assert codec["decode, ms"] == "500.0 (250.0 to 500.0)"
    # 1,000 bytes in half a second. Halved numbers have about eleven bits.
    assert codec["Mbit/s of what is sent"].startswith("0 ")
    assert 0 < float(codec["error"]) < 1e-5


def test_without_a_codec_its_row_is_left_out_and_that_is_said(variables, capsys):
    with Report("test") as report:
        beside_nnc(report, variables, "", [-24], repeats=1)
    text = capsys.readouterr().out
    assert len(rows_of(text)) == 3
    assert "nncodec: left out; --nnc_python=PYTHON is one that has it" in text
