"""For all tests: one thread (tensors are small), one seed, folders of real speech and of recorded numbers, if given."""

import gc
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; processes that tests start have it, too

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was collected stays until the end: the garbage collector need not visit it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same draws whatever ran before: workers share the tests as they get free."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real speech; set SPEAR_TTS_CORPORA to it."""
    return _folder("SPEAR_TTS_CORPORA", "fsdd/, asterisk_en/ and ljspeech_mini/")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of numbers recorded from release 0.4.8; set SPEAR_TTS_FIXTURES to it."""
    return _folder("SPEAR_TTS_FIXTURES", "numbers recorded from release 0.4.8")


def _folder(variable: str, content: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set: it names the folder of {content}")
    return Path(os.environ[variable])
