"""Train a small Llama on a text, for a few minutes on one processor: a float model to measure quantizers on.

    python bench/train_decoder.py TEXT OUT_FOLDER [--minutes 4] [--seed 1]

Rows are multiples of 256, so that llama.cpp's K-quants apply to it as they do to large models. The last tenth of the
text is not trained on; its loss is printed, and the part is written to OUT_FOLDER/held_out.txt, the rest to
OUT_FOLDER/train.txt. Needs torch and transformers. The same seed, steps and torch build give the same weights;
`--steps` stops there instead of after some minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 1024
BEGIN = "<s>"
LENGTH, BATCH = 128, 16
RATE, WARMUP = 2e-3, 40


def tokenizer_of(text: str) -> Tokenizer:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def new_model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def train(model: LlamaForCausalLM, ids: torch.Tensor, *, seconds: float, steps: int | None) -> int:
    """AdamW with a warm-up and a linear fall to zero over the time (or the steps); returns the steps taken."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
    begin, done = time.monotonic(), 0
    while True:
        share = done / steps if steps is not None else (time.monotonic() - begin) / seconds
        if share >= 1:
            return done
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (done + 1) / WARMUP) * (1 - share)
        starts = torch.randint(0, ids.numel() - LENGTH - 1, (BATCH,))
        batch = torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done += 1
        if done % 100 == 0:
            print(f"step {done}: loss {loss.item():.3f}", file=sys.stderr)


def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Nats per token."""
    windows = ids[: ids.numel() // LENGTH * LENGTH].reshape(-1, LENGTH)
    with torch.no_grad():
        return float(torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in windows]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    torch.manual_seed(arguments.seed)
    tokenizer, model = tokenizer_of(text[:cut]), new_model()
    ids = torch.tensor(tokenizer.encode(text[:cut]).ids)
    steps = train(model, ids, seconds=60 * arguments.minutes, steps=arguments.steps)
    loss = held_out_loss(model, torch.tensor(tokenizer.encode(text[cut:]).ids))
    print(f"{steps} steps, held-out loss {loss:.3f}, perplexity {math.exp(loss):.1f}")
    model.save_pretrained(arguments.out)
    tokenizer.save(str(arguments.out / "tokenizer.json"))
    settings = {"bos_token": BEGIN, "eos_token": BEGIN, "tokenizer_class": "PreTrainedTokenizerFast"}
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(settings))
    (arguments.out / "train.txt").write_text(text[:cut], encoding="utf-8")
    (arguments.out / "held_out.txt").write_text(text[cut:], encoding="utf-8")


if __name__ == "__main__":
    main()
