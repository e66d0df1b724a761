import io

import pytest

from accordion_jax.delivery.device.progress import TransferProgress, summary
from tests.delivery.servers import Fault, Served


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_it_shows_bytes_depth_and_error(toy_bundle, make_virtual, out):
    served = Served(toy_bundle)
    device, _ = make_virtual(served, 1.0)
    progress = TransferProgress(device, out)
    device.add_listener(progress)
    device.connect()
    assert "nothing: not even the base is complete yet" in summary(device)
    device.fetch(max_error=0.3)
    served.faults = [Fault(replace=lambda body: bytes(len(body)))]
    device.upgrade()
    progress.close()
    shown = out.getvalue()
    full = device.manifest.table.full
    assert f"in use toy-5, depth 5, 32 bits, expected error {full.top1_error:.4f}" in shown
    assert shown.count("problem: segment") == 1
    if out.isatty():
        assert "100%" in shown
        # The three segments of the second transfer, and the damaged one, which came twice.
        assert "67.2k/67.2k" in shown
    else:
        # One line a configuration, and the problem's.
        assert len(shown.splitlines()) == 6 + 1
        assert "bytes  in use toy-0, depth 0" in shown
    told = summary(device)
    assert "in use       toy-5: 5 of 5 blocks, 32 bits, 100 % of the bytes" in told
    assert "0 bytes of the full model are missing" in told
