"""Sources for `generate_many`, a model that tells them apart, and what `generate` says to each alone."""

import small
import torch

TYPES, SPEECH = small.TEXT_TO_SPEECH, small.SPEECH_TO_TEXT
QUIET = dict(progress=False)
LENGTHS = [3, 11, 1, 7, 7, 2, 9, 4, 12, 5, 6, 1, 8]


class FramesOf10(small.Frames):
    """A tokenizer of waveforms: one id per 10 samples; refuses clips of zeros."""

    def __init__(self):
        super().__init__(10, 12)

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        if bool((wav == 0).all(dim=1).any()):
            raise RuntimeError("a clip holds only zeros")
        return super().__call__(wav, lengths, input_sample_hz, flatten)


class Letters:
    """A tokenizer of texts that refuses what is not a letter of a to h, and notes how many texts it sees."""

    vocab_size = 9

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen.append(len(texts))
        return [[1 + "abcdefgh".index(letter) for letter in text] for text in texts]


class Watch:
    """The shapes of what goes into the encoder."""

    def __init__(self, model):
        self.shapes = []
        hook = lambda module, args: self.shapes.append(tuple(args[0].shape[:2]))  # noqa: E731
        self.handle = model.source_transformer.register_forward_pre_hook(hook)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def make_model(**options):
    sizes = dict(target_depth=2, num_text_token_ids=9, num_semantic_token_ids=12)
    parts = ("token_emb", "cross_attention")  # ids differ between sources
    return small.make_model(spread=0.5, spread_in=parts, **{**sizes, **options}).eval()


def make_rows(lengths=LENGTHS, size=9):
    return small.make_rows(size, lengths, seed=5)


def alone(model, row, types, **options):
    """What `generate` says of one source: ids without padding and end-of-sequence, score, whether it was cut."""
    ids, scores = model.generate(row[None], return_scores=True, **types, **options)
    ids, eos = ids[0].tolist(), model.eos_id[{**types, **options}["target_type"]]
    return (ids[: ids.index(eos)], float(scores), False) if eos in ids else (ids, float(scores), True)


def same(one, other):
    near = abs(one.score - other.score) < 1e-4
    return torch.equal(one.ids, other.ids) and one.truncated == other.truncated and near
