"""A disk that is full: no file of this process may grow beyond some bytes, so that the system refuses the write itself."""

from contextlib import contextmanager

import pytest


@contextmanager
def full_disk(most: int):
    """Within the block a file that grows beyond `most` bytes is an OSError."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
