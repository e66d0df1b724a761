"""What the tests of a device with the toy bundle ask again and again."""

SEGMENT = 16792  # wire bytes of each segment of the toy bundle
WHOLE = 6 * SEGMENT


def in_use(device):
    return device.in_use.name if device.in_use else None


def assert_sound(device):
    """Every visible segment of the cache is what its name says."""
    for path in (device.cache.folder / "segments").glob("*.safetensors"):
        assert device.cache.verify(path.stem), path


def with_base(make_device, url, **kwargs):
    device = make_device(url, **kwargs)
    device.connect()
    assert device.fetch(max_bytes=SEGMENT).configuration == "toy-0"
    return device
