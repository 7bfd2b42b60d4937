"""Opens the model that an argument MODEL names: a folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic


def open_model(name: str) -> TextToSemantic:
    """The model in evaluation mode.

    Raises:
        FileNotFoundError: there is no such folder, and the Hub has no such model.
        OSError, ValueError: the folder holds no model that can be loaded.
    """
    from huggingface_hub.utils import logging as hub_logging

    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

    hub_logging.set_verbosity_error()  # its warnings repeat the error below
    try:
        return TextToSemantic.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise
        if type(error) is FileNotFoundError:  # the name is no Hub id, so the Hub was not asked
            raise FileNotFoundError(f"MODEL: {error}") from error
        # The Hub was asked, and its message does not say that a folder may be mistyped.
        raise FileNotFoundError(f"MODEL {name}: there is no such folder, and the Hub says: {error}") from error
