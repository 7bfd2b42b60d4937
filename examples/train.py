"""Training on a folder of ids, in one process or many: pretraining on all clips, then text to speech on clips with a text.

    spear-tts tokenize my-corpus my-ids               # metadata.csv (id|text) and wavs/, or any layout that it reads
    python examples/train.py my-ids --output my-model

After an interruption the same command goes on from the last checkpoint. With `accelerate launch` the same script runs

on several GPUs of one machine:

    accelerate launch --multi_gpu --num_processes 8 --mixed_precision bf16 examples/train.py my-ids

on two machines of eight GPUs (the other one has --machine_rank 1); --output must be a folder that both machines see:

    accelerate launch --multi_gpu --num_machines 2 --machine_rank 0 --num_processes 16 --main_process_ip 10.0.0.1 \\
        --main_process_port 29500 --mixed_precision bf16 examples/train.py my-ids --output /shared/my-model

and in several processes on CPUs (accelerate's own `--cpu` starts several processes only by MPI):

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/train.py my-ids

`--batch-tokens` counts for each process. Sizes and steps are small; with hours of speech raise them all.
"""

import argparse
from pathlib import Path

from spear_tts_pytorch import CharacterTokenizer, SpeechSpeechPretrainer, TextToSemantic, TextToSemanticTrainer
from spear_tts_pytorch.data.tokenized import TokenizedSpeech
from spear_tts_pytorch.tokenizers.semantic import load_semantic_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", type=Path, help="folder that `spear-tts tokenize` wrote")
    parser.add_argument("--output", type=Path, default=Path("my-model"), help="default %(default)s")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4, help="layers of the encoder, and of the decoder")
    parser.add_argument("--pretrain-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-tokens", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=5e-4)
    args = parser.parse_args()

    speech = TokenizedSpeech(args.ids)
    texts = [text for text in speech.texts if text]
    if not texts:
        parser.error(f"{args.ids} has no texts: there is nothing to learn to say")
    wav2vec, characters = load_semantic_tokenizer(args.ids / "tokenizer"), CharacterTokenizer.fit(texts)
    pairs = [(speech[index], characters([text])[0]) for index, text in enumerate(speech.texts) if text]
    model = TextToSemantic(
        args.dim,
        source_depth=args.depth,
        target_depth=args.depth,
        heads=args.dim // 64,
        wav2vec=wav2vec,
        tokenizer_encode=characters,
        add_positions=True,
        cross_attention_prior=True,
        text_position_rate=sum(len(one) for one, _ in pairs) / sum(len(text) for _, text in pairs),
    )
    common = dict(batch_tokens=args.batch_tokens, lr=args.lr)
    SpeechSpeechPretrainer(
        model,
        dataset=speech,
        reconstruct_seq=True,
        num_train_steps=args.pretrain_steps,
        num_warmup_steps=args.pretrain_steps // 10,
        results_folder=args.output / "pretraining",
        **common,
    ).train()
    trainer = TextToSemanticTrainer(
        model,
        dataset=pairs,
        freeze="none",
        num_train_steps=args.steps,
        num_warmup_steps=args.steps // 10,
        results_folder=args.output / "text-to-speech",
        **common,
    )
    trainer.train()
    if trainer.is_main:
        model.save_pretrained(args.output / "model")
    trainer.print(f'saved; now: spear-tts generate {args.output / "model"} "some text" --wav said.wav')


if __name__ == "__main__":
    main()
