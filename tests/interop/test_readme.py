"""The README's snippets for downstream packages run after the one that makes a model, as they are printed."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_snippets_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    downstream = [code for code in blocks("py") if "soundstorm_pytorch" in code]
    assert len(downstream) == 1
    namespace: dict = {"__name__": "__main__"}
    model_only = [code for code in blocks("python") if "model = TextToSemantic(" in code][:1]
    for code in [*model_only, *downstream]:
        exec(compile(code, "README.md", "exec", dont_inherit=True), namespace)
    waveform, ids = namespace["waveform"], namespace["ids"]
    assert waveform.isfinite().all() and waveform.numel() > ids.shape[1]
