"""The errors of delivery, in one tree.

::

    DeliveryError
    ├── ManifestError (ValueError)    a manifest cannot be read: malformed, or of another version
    ├── BundleError (ValueError)      a bundle cannot be written, or a folder is not a sound one
    ├── ModelError (ValueError)       a model cannot be run here: its runtime, its kind of input
    │                                 or its description is not known, or a package is missing
    ├── TrustError (ValueError)       a model, a key or a trust file is not vouched for as pinned
    ├── StorageError                  bundles cannot be read from where they are kept
    ├── SegmentError                  bytes are not those that the manifest promised
    ├── CacheError                    the disk cache cannot take a segment
    │   ├── CacheLimitError           the size limit is smaller than what the model needs
    │   └── DiskFullError             the file system has no room left
    └── TransportError                the other side cannot be reached, or does not answer well
        ├── ConnectionLostError       cut, refused or timed out; trying again may help
        └── RefusedError              the server said no; trying again will not help

Every message says what was given, what was wanted, and what to do.
"""


class DeliveryError(Exception):
    """Anything that goes wrong between a bundle and a device."""


class ManifestError(DeliveryError, ValueError):
    """A manifest cannot be read: it is malformed, or of a version that this one does not know."""


class BundleError(DeliveryError, ValueError):
    """A bundle cannot be written, or a folder does not hold a sound one."""


class ModelError(DeliveryError, ValueError):
    """A model cannot be run here: what it asks for is not known or not installed, or is wrong."""


class TrustError(DeliveryError, ValueError):
    """A model, a key or a trust file is not vouched for as it must be; nothing of it is used."""


class StorageError(DeliveryError):
    """Bundles cannot be read from where they are kept: it is gone, or does not answer."""


class SegmentError(DeliveryError):
    """Bytes are not those that the manifest promised: their size or their SHA-256 differs."""


class CacheError(DeliveryError):
    """The disk cache cannot take a segment."""


class CacheLimitError(CacheError):
    """The cache's size limit is smaller than what the model needs."""


class DiskFullError(CacheError):
    """The file system has no room left for a segment."""


class TransportError(DeliveryError):
    """The other side cannot be reached, or does not answer as agreed."""


class ConnectionLostError(TransportError):
    """A connection was refused, cut or timed out, or the server is busy: worth another try.

    Attributes:
      retry_after_s: what the server asks to wait before the next try; 0 if it says nothing.
      answered: whether a server answered, and only this request failed.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0, answered: bool = False):
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.answered = answered


class RefusedError(TransportError):
    """The server said no (a status of 4xx other than 408, 425, 429): not worth another try.

    Attributes:
      status: that it answered; None where it is not its answer that says no.
    """

    def __init__(self, message: str, *, status: int | None = None):
        super().__init__(message)
        self.status = status
