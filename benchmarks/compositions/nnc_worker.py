"""Codes arrays with NNC (ISO/IEC 15938-17) and decodes them again, in a Python that has `nncodec`.

Run by `nnc`, as a file: it imports nothing of this project. ``nncodec`` wants PyTorch, pandas and
h5py, and imports for its applications (image folders, video, metrics) packages that do not load
beside every PyTorch: they are stood in for, since coding does not use them.

    python nnc_worker.py ARRAYS.safetensors FOLDER QP [QP ...]
"""

import importlib.abc
import importlib.machinery
import json
import pathlib
import sys
import tempfile
import time
from unittest import mock

_DECODED = 4  # times; the first does not count
_STOOD_IN_FOR = ("torchvision", "cv2", "ptflops", "torchmetrics", "flwr", "wandb", "sentencepiece")


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that are not there."""

    def find_spec(self, name, *_):
        if name.partition(".")[0] in _STOOD_IN_FOR:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__spec__, module.__path__ = spec, []
        return module

    def exec_module(self, module):
        pass


def work() -> None:
    """Writes a JSON file of sizes and processor's seconds, and the decoded arrays of each QP."""
    sys.meta_path.insert(0, _StandIns())
    import safetensors.numpy
    from nncodec import nnc

    source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    arrays, found = safetensors.numpy.load_file(source), {}
    for qp in map(int, sys.argv[3:]):
        with tempfile.TemporaryDirectory() as temporary:
            content = nnc.compress(
                {name: array.copy() for name, array in arrays.items()},
                bitstream_path=f"{temporary}/bitstream.nnc",
                qp=qp,
                use_dq=True,
                param_opt=True,
                row_skipping=True,
                return_bitstream=True,
            )
        seconds = []
        for _ in range(_DECODED):
            started = time.process_time()
            decoded = nnc.decompress(bytearray(content))
            seconds.append(time.process_time() - started)
        decoded = {name: decoded[name].astype("float32") for name in arrays}
        safetensors.numpy.save_file(decoded, folder / f"{qp}.safetensors")
        found[qp] = {"bytes": len(content), "decode_s": seconds[1:]}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    work()
