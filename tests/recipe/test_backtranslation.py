"""Labels and choices of a backtranslator whose answers are known."""

import pytest
import torch

from spear_tts_pytorch.decoding.ctc import CharacterLM
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator, speak
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.tokens import pad_sequences
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, TextToSemanticTrainer

TEXTS = ["abc", "cab", "bb", "acca", "bca", "cc", "ab", "ca"]


@pytest.fixture(scope="module")
def trained():
    """Two models that have learned a toy speech: each character is its own two units, twice."""
    characters = CharacterTokenizer.fit(TEXTS)
    rows = characters.encode(TEXTS)
    units = [torch.stack((row * 2, row * 2 + 1), dim=1).flatten() for row in (r[r > 0] for r in rows)]
    pairs = [(unit, row[row > 0]) for unit, row in zip(units, rows, strict=True)]
    models = []
    for trainer, options in (
        (SemanticToTextTrainer, {"ctc_weight": 1.0, "freeze_encoder": False}),
        (TextToSemanticTrainer, {"freeze": "none"}),
    ):
        torch.manual_seed(0)
        model = TextToSemantic(
            32, source_depth=2, target_depth=2, heads=2, dim_head=16, tokenizer_encode=characters, ctc=True,
            num_semantic_token_ids=10,
        )  # fmt: skip
        trainer(
            model, dataset=pairs, num_train_steps=150, num_warmup_steps=10, batch_size=8, lr=5e-3, valid_frac=0.0,
            results_folder=None, save_results_every=0, progress=False, **options,
        ).train()  # fmt: skip
        models.append(model)
    return *models, characters, pairs


@pytest.mark.slow
def test_labels_are_the_texts_with_and_without_a_language_model(trained):
    reader, _, characters, pairs = trained
    batch = pad_sequences([units for units, _ in pairs], -1)
    lm = CharacterLM.fit([text for _, text in pairs], characters.vocab_size, order=3)
    for backtranslator in (CTCBacktranslator(reader), CTCBacktranslator(reader, lm)):
        read = backtranslator(batch)
        assert [characters.decode(ids)[0] for ids, _ in read] == TEXTS
        alone, score = backtranslator(pairs[3][0][None])[0]
        assert alone.tolist() == read[3][0].tolist() and score == pytest.approx(read[3][1], abs=1e-4)


@pytest.mark.slow
def test_cost_is_least_for_the_true_text_and_infinite_for_an_impossible_one(trained):
    reader, _, characters, pairs = trained
    backtranslator = CTCBacktranslator(reader)
    units = pairs[0][0]
    costs = backtranslator.cost(units.expand(len(TEXTS), -1), characters.encode(TEXTS))
    assert costs.argmin() == 0
    assert backtranslator.cost(units[None], characters.encode(["abcabcabcabc"])).isinf()


@pytest.mark.slow
def test_speak_greedy_and_best_of_several(trained):
    reader, speaker, characters, pairs = trained
    greedy = speak(speaker, TEXTS, max_length=20, batch_size=3)
    assert [row.tolist() for row in greedy] == [units.tolist() for units, _ in pairs]
    backtranslator = CTCBacktranslator(reader)
    text_ids = characters.encode(TEXTS)

    def mean_cost(candidates):
        # hot samples of this model are often wrong, so that a choice among them shows
        rows = speak(
            speaker, TEXTS, backtranslator=backtranslator, candidates=candidates, temperature=3.0, max_length=20,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return backtranslator.cost(pad_sequences(rows, -1), text_ids).clamp(max=50).mean()

    assert mean_cost(16) < mean_cost(1)
