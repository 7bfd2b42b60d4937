"""Fusion of CTC and a language model: the weights chosen are the best of those tried, and few clips choose nothing."""

import torch

from spear_tts_pytorch.decoding.language_model import CharacterLM
from spear_tts_pytorch.recipe.fusion import BONUSES, WEIGHTS, Fusion
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.utils.metrics import character_error_rate

TEXTS = ["abcabc", "abcabcabc", "abcabc", "abc", "abcabc", "abcabcabcabc"]


def setting():
    characters = CharacterTokenizer.fit(["abc"])
    lm = CharacterLM.fit([characters.encode(["abcabc"])[0]] * 5, characters.vocab_size, 3)
    torch.manual_seed(0)
    rows = []
    for text in TEXTS:
        logits = torch.randn(2 * len(text), characters.vocab_size)
        logits[torch.arange(len(text)) * 2, characters.encode([text])[0]] += 1.5
        rows.append(logits.log_softmax(dim=-1))

    def spell(ids):
        return characters.decode(ids)[0] if len(ids) else ""

    return lm, rows, spell


def test_the_weight_and_bonus_that_read_best_are_chosen():
    lm, rows, spell = setting()
    errors = {
        (weight, bonus): character_error_rate([spell(Fusion(lm, weight, bonus).decode(row)[0]) for row in rows], TEXTS)
        for weight in WEIGHTS
        for bonus in BONUSES
    }
    found = Fusion(lm, beam_size=16).chosen(rows, TEXTS, spell)
    assert len(set(errors.values())) > 3
    assert errors[found.lm_weight, found.length_bonus] == min(errors.values()) and found.beam_size == 16


def test_too_few_clips_choose_nothing():
    lm, rows, spell = setting()
    fusion = Fusion(lm, 0.7, 0.1)
    assert fusion.chosen(rows[:4], TEXTS[:4], spell) is fusion
    without = Fusion(None)
    assert without.chosen(rows, TEXTS, spell) is without


def test_the_score_is_the_log_probability_per_id_without_the_bonus():
    log_probs = torch.full((2, 3), 0.1)
    log_probs[0, 1] = log_probs[1, 2] = 0.8
    ids, score = Fusion(None, length_bonus=5.0).decode(log_probs.log())
    assert ids.tolist() == [1, 2] and abs(score - torch.tensor(0.64).log() / 2) < 1e-6
