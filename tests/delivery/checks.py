"""What the tests of delivery ask again and again, most of them of a device with the toy bundle."""

import time

SEGMENT = 16792  # wire bytes of each segment of the toy bundle
WHOLE = 6 * SEGMENT


def wait_until(condition, timeout_s=120):
    """Waits for what must come sooner or later; how soon, a busy machine decides."""
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, f"it did not come within {timeout_s} s"
        time.sleep(0.01)


def in_use(device):
    return device.in_use.name if device.in_use else None


def assert_sound(device):
    """Every visible segment of the cache is what its name says."""
    for path in (device.cache.folder / "segments").glob("*.bin"):
        assert device.cache.verify(path.stem), path


def with_base(make_device, url, **kwargs):
    device = make_device(url, **kwargs)
    device.connect()
    assert device.fetch(max_bytes=SEGMENT).configuration == "toy-0"
    return device
