"""Small models, datasets and trainers for tests: a model of width 16, twelve pairs of a rule, runs of eight updates."""

import small
import torch

from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer

CTC = {"ctc": True}


def make_model(seed=0, **options):
    return small.make_model(seed=seed, **{"source_depth": 2, "num_text_token_ids": 12, **options})


def make_pairs(num_items=12, seed=0):
    """Each text id is spoken as two semantic ids."""
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(1, 10, (3 + index % 4,), generator=generator) for index in range(num_items)]
    return [(torch.stack((text, text + 9), dim=1).reshape(-1), text) for text in texts]


def make_speech(num_items=12):
    return [speech for speech, _ in make_pairs(num_items)]


def train_options(folder=None, **options):
    defaults = dict(
        num_train_steps=8, num_warmup_steps=2, batch_size=3, lr=1e-2, results_folder=folder, log_every=2,
        save_results_every=4, save_model_every=3, progress=False,
    )  # fmt: skip
    return {**defaults, **options}


STAGES = {
    "pretrain": (SpeechSpeechPretrainer, make_speech, {"ff_dropout": 0.1}),
    "pretrain whole": (SpeechSpeechPretrainer, make_speech, {"reconstruct_seq": True}),
    "backtranslate": (SemanticToTextTrainer, make_pairs, {"ctc_weight": 0.3, "ff_dropout": 0.1}),
    "forward": (TextToSemanticTrainer, make_pairs, {"ff_dropout": 0.1}),
}


def make_trainer(stage, folder=None, seed=0, **options):
    trainer_class, make_data, stage_options = STAGES[stage]
    stage_options = dict(stage_options)
    model = make_model(seed, ff_dropout=stage_options.pop("ff_dropout", 0.0), **CTC)
    dataset = options.pop("dataset", None) or make_data()
    return trainer_class(model, dataset=dataset, **stage_options, **train_options(folder, **options))


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def timeless(records):
    return [{key: value for key, value in record.items() if key != "tokens_per_second"} for record in records]


class Frames:
    """A tokenizer: each 10 samples are a unit, the sign of their sum."""

    codebook_size, target_sample_hz, downsample_factor = 20, 100, 10

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        ids = (wav.unflatten(1, (-1, 10)).sum(dim=-1) > 0).long()
        frames = torch.arange(ids.shape[1], device=ids.device)
        return ids if lengths is None else ids.masked_fill(frames >= lengths[:, None] // 10, -1)
