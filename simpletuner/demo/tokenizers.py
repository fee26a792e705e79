"""Tokenizers of CLIP's and T5's kind that know the words of the demo's captions, and spell all others."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from simpletuner.demo.architecture import TEXT_LENGTH


def clip_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """Byte pairs learned from the captions, in the order of OpenAI's vocabulary: bytes, merges, specials."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, learned["merges"])]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) for pair in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def t5_tokenizer(captions: Sequence[str]) -> T5Tokenizer:
    """One token a word, with single letters for the rest: trained unigrams would shatter so few words into letters."""
    words = Counter(word for caption in captions for word in re.findall(r"[^\s,]+", caption))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -12.0)]
    vocabulary += [("▁" + word, math.log(count / words.total())) for word, count in words.most_common()]
    vocabulary += [(chr(code), -14.0) for code in range(ord("!"), ord("~") + 1)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, additional_special_tokens=[], model_max_length=TEXT_LENGTH)
