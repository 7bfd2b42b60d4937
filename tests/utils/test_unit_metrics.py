"""Figures of units: of made-up ids and labels that can be counted by hand."""

import numpy as np
import pytest

from spear_tts_pytorch.utils.unit_metrics import LONGEST, agreement, run_lengths, unit_figures


def row(*ids):
    return np.array(ids, dtype=np.int64)


def test_runs_are_counted():
    assert run_lengths(row(3, 3, 0, 0, 0, 3)).tolist() == [2, 3, 1]
    assert run_lengths(row(0)).tolist() == [1] and run_lengths(row()).tolist() == []


def test_rates_are_of_ids_without_repeats():
    figures = unit_figures([row(1, 1, 2, 2), row(2, 2, 2, 2), row()], seconds=2.0, characters=6)
    assert figures["ids_per_second"] == 1.5 and figures["ids_per_character"] == 0.5
    assert figures["used_ids"] == 2 and figures["perplexity"] == pytest.approx(1.9, abs=0.05)  # shares of 1/3 and 2/3
    assert figures["run_frames"] == pytest.approx(8 / 3, abs=0.01) and figures["median_run_frames"] == 2
    assert figures["runs"][:4] == [0, 2, 0, 1] and len(figures["runs"]) == LONGEST
    long = unit_figures([row(*[5] * 100)], 1.0, 0)
    assert long["runs"][-1] == 1 and long["perplexity"] == 1 and long["ids_per_character"] == 1
    with pytest.raises(ValueError, match="rows hold no ids"):
        unit_figures([row()], 1.0, 1)


def test_agreement_by_the_definitions_of_hubert():
    pytest.importorskip("sklearn", reason="the quality of units needs scikit-learn")
    # of id 0 three frames are "a" and one is "b"; of id 1 two are "b"; the last frame has no label
    found = agreement([row(0, 0, 0, 0), row(1, 1, 1)], [row(0, 0, 0, 1), row(1, 1, -1)])
    assert found["purity"] == pytest.approx(5 / 6, abs=1e-4)
    assert found["cluster_purity"] == pytest.approx(5 / 6, abs=1e-4)
    joint = np.array([[3, 0], [1, 2]]) / 6  # labels, ids
    both = -(joint[joint > 0] * np.log(joint[joint > 0])).sum()
    labels, ids = (-(part * np.log(part)).sum() for part in (joint.sum(1), joint.sum(0)))
    information = labels + ids - both
    assert found["pnmi"] == pytest.approx(information / labels, abs=1e-4)
    assert found["nmi"] == pytest.approx(2 * information / (labels + ids), abs=1e-4)


def test_ids_that_are_labels_agree_and_ids_of_chance_do_not():
    pytest.importorskip("sklearn", reason="the quality of units needs scikit-learn")
    labels = np.random.default_rng(0).integers(0, 5, 20_000)
    assert agreement([labels + 3], [labels]) == {"purity": 1, "cluster_purity": 1, "pnmi": 1, "nmi": 1}
    chance = agreement([np.random.default_rng(1).integers(0, 5, 20_000)], [labels])
    assert chance["pnmi"] < 0.01 and 0.19 < chance["purity"] < 0.23


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one value for each frame"):
        agreement([row(0, 1)], [row(0)])
    with pytest.raises(ValueError, match="no label of a frame"):
        agreement([row(0)], [row(-1)])
