"""`spear-tts pairs`: figures as JSON from each of its commands, refusals on one line."""

import json

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter


def fill(folder, rows, **options):
    """Writes (id, semantic ids, text ids) rows."""
    with PairWriter(folder, num_semantic_token_ids=20, num_text_token_ids=30, **options) as writer:
        for row in rows:
            writer.write(*row)
    return folder


def numbered(start, stop):
    return [(f"u{n}", [n % 20] * (n % 4), [1 + n % 29]) for n in range(start, stop)]


def rows_of(folder):
    dataset = GeneratedAudioTextDataset(folder, columns=("id", "semantic_ids", "text_ids"))
    return [(name, semantic_ids.tolist(), text_ids.tolist()) for name, semantic_ids, text_ids in dataset]


def shell(capsys, *arguments):
    code = main(["pairs", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if code == 0 else captured.err


def test_the_shell(tmp_path, capsys):
    one, two = fill(tmp_path / "1", numbered(0, 20)), fill(tmp_path / "2", numbered(19, 30), model_hash="x")
    code, error = shell(capsys, "merge", one, two, "--out", tmp_path / "all")
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "model_hash" in error
    assert "--mixed" in error and "mixed=True" not in error
    code, error = shell(capsys, "merge", one, two, "--out", tmp_path / "all", "--mixed")
    assert code == 2 and "pass --drop-duplicates" in error and "duplicates=" not in error
    code, found = shell(capsys, "merge", one, two, "--out", tmp_path / "all", "--mixed", "--drop-duplicates")
    assert (code, found) == (0, {"pairs": 30, "removed": 1})
    assert rows_of(tmp_path / "all") == numbered(0, 30)
    code, found = shell(
        capsys, "split", tmp_path / "all", "train=0.9", "valid=0.1", "--out", tmp_path / "parts", "--seed", 3
    )
    assert (code, found) == (0, {"train": 27, "valid": 3})
    assert shell(capsys, "split", tmp_path / "all", "a=2", "--out", tmp_path / "few")[1] == {"a": 2}
    code, found = shell(capsys, "dedupe", tmp_path / "all", "--out", tmp_path / "clean", "--by", "contents")
    assert code == 0 and found["pairs"] + found["removed"] == 30
    code, found = shell(capsys, "stats", tmp_path / "all", "--ids-per-second", 25)
    assert code == 0 and found["pairs"] == 30 and found["hours"] > 0
    for arguments, words in [
        (["split", tmp_path / "all", "a", "--out", tmp_path / "x"], "'a' is not a part such as"),
        (["split", tmp_path / "all", "a=1", "a=2", "--out", tmp_path / "x"], "two parts have one name"),
        (["stats", tmp_path / "all", "--ids-per-second", 0], "--ids-per-second must be above 0"),
        (["stats", tmp_path / "nowhere"], "no pairs in"),
        (["dedupe", tmp_path / "all", "--out", one], "exists already"),
    ]:
        code, error = shell(capsys, *arguments)
        assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
