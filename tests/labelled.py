"""A small model that reads ids of speech, and items for it to label."""

import small
import torch

from spear_tts_pytorch.tokenizers.text import CharacterTokenizer

TOKENIZER = CharacterTokenizer("abc ")


def make_model(seed=0, **options):
    return small.make_model(
        seed=seed, spread=1, **{"num_text_token_ids": None, "tokenizer_encode": TOKENIZER, **options}
    )


def make_ids(num_items=11):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 20, (3 + 5 * index % 17,), generator=generator) for index in range(num_items)]


class Counting:
    """A dataset that fails from a given number of reads on."""

    def __init__(self, items, fail_after=10**9, ids=None):
        self.items, self.reads, self.fail_after = items, 0, fail_after
        if ids is not None:
            self.ids = ids

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if self.reads >= self.fail_after:
            raise RuntimeError("disk gone")
        self.reads += 1
        return self.items[index]
