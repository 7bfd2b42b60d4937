"""Small models, batches, clips and tokenizers for tests: width 16, one layer on each side, vocabularies of 30 and 20.

Tests name only what matters to them: `make_model(target_depth=2, ctc=True)`. Trainers and their data are in
`training_setup.py`, what is labelled in `labelled.py`, decoders that can be enumerated in `fake_step.py`.
"""

import numpy as np
import torch

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokens import pad_sequences

TEXT_TO_SPEECH = {"source_type": "text", "target_type": "speech"}
SPEECH_TO_TEXT = {"source_type": "speech", "target_type": "text"}
DIRECTIONS = [(source, target) for source in ("speech", "text") for target in ("speech", "text")]
PADS = {"speech": -1, "text": 0}


def make_model(dim=16, seed=0, spread=None, spread_in=("token_emb",), model_class=TextToSemantic, **options):
    """A model with random weights, in training mode.

    Args:
        spread: standard deviation that the parameters of `spread_in` are drawn with; logits are then far from uniform
            and a wrong id shows. None leaves the model's own initialisation.
        options: of the constructor.
    """
    torch.manual_seed(seed)
    sizes = {"source_depth": 1, "target_depth": 1, "heads": 2, "dim_head": 8}
    vocabularies = {"num_text_token_ids": 30, "num_semantic_token_ids": 20}
    model = model_class(dim, **{**sizes, **vocabularies, **options})
    for name, parameter in model.named_parameters():
        if spread is not None and any(part in name for part in spread_in):
            parameter.data.normal_(std=spread)
    return model


def make_rows(size, lengths, seed=0):
    """Random ids in 1 to `size - 1`, a row for each length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, size, (length,), generator=generator) for length in lengths]


def make_ids(modality, size, lengths, seed=0):
    """The same as a padded batch `[b, n]`."""
    return pad_sequences(make_rows(size, lengths, seed), PADS[modality])


def make_clips(lengths, seed=0):
    """Noise at a tenth of full scale: a float32 array for each length in samples."""
    random = np.random.default_rng(seed)
    return [0.1 * random.standard_normal(length).astype(np.float32) for length in lengths]


class Frames:
    """A tokenizer of waveforms: an id for each `hop` samples, -1 beyond `lengths`; `seen` lists the shapes it was given.

    A louder sample has a higher id: an absolute value of 1 would be `codebook_size - 1`.
    """

    target_sample_hz = 8_000

    def __init__(self, hop, codebook_size):
        self.downsample_factor, self.codebook_size, self.seen = hop, codebook_size, []

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        self.seen.append(tuple(wav.shape))
        ids = (wav[:, :: self.downsample_factor].abs() * (self.codebook_size - 1)).long()
        if lengths is None:
            return ids
        return ids.masked_fill(torch.arange(ids.shape[1]) >= (lengths // self.downsample_factor)[:, None], -1)


def letters(texts):
    """A tokenizer of texts that returns lists: a is 1, b is 2 and so on."""
    return [[ord(letter) - ord("a") + 1 for letter in text] for text in texts]
