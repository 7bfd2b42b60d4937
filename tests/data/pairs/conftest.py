"""Fixtures of several tests of pairs."""

import pytest

from spear_tts_pytorch.data.pairs import dataset as pairs_module


@pytest.fixture
def mapped(monkeypatch):
    """Every folder counts as large: shards are decoded to files."""
    monkeypatch.setattr(pairs_module, "IN_MEMORY_IDS", 0)


@pytest.fixture
def small_disk():
    """Files cannot grow beyond so many bytes: the system refuses the write itself."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit()
