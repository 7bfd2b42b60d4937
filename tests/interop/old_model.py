"""Writes what users of release 0.4.8 have on disk: checkpoints of SoundStorm and Voicebox with its model inside.

`python old_model.py FOLDER`, with release 0.4.8 on PYTHONPATH, writes soundstorm.pt, voicebox.pt (as those packages read
them) and expected.pt: inputs, and the logits that its models give.
"""

import random
import sys
from importlib.metadata import version
from pathlib import Path

import parts
import torch

INPUTS = {
    "text": torch.randint(1, parts.NUM_TEXT_IDS, (2, 9), generator=torch.Generator().manual_seed(1)),
    "speech": torch.randint(0, parts.NUM_SPEECH_IDS, (2, 70), generator=torch.Generator().manual_seed(2)),
}
CODES = torch.randint(0, 16, (2, 140, 2), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model) -> dict[str, torch.Tensor]:
    """Of each pair of modalities, teacher-forced."""
    model.eval()
    pairs = [(source, target) for source in INPUTS for target in INPUTS]
    return {
        f"{source} to {target}": model(INPUTS[source], INPUTS[target], source_type=source, target_type=target)
        for source, target in pairs
    }


@torch.no_grad()
def soundstorm_loss(storm) -> torch.Tensor:
    torch.manual_seed(4)
    random.seed(4)
    return storm.eval()(CODES, cond_semantic_token_ids=INPUTS["speech"])[0]


def main(folder: Path) -> None:
    assert version("spear-tts-pytorch") == "0.4.8", version("spear-tts-pytorch")
    torch.manual_seed(0)
    storm = parts.soundstorm(parts.text_to_semantic())
    flow = parts.voicebox(parts.text_to_semantic(wav2vec=parts.Hubert()))
    torch.save({"model": storm.state_dict()}, folder / "soundstorm.pt")
    torch.save({"model": flow.state_dict()}, folder / "voicebox.pt")
    expected = dict(
        soundstorm=logits(storm.text_to_semantic),
        voicebox=logits(flow.text_to_semantic),
        soundstorm_loss=soundstorm_loss(storm),
    )
    torch.save(expected, folder / "expected.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
