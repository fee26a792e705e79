"""Rebuilds the demo model from nothing; takes a seed and an hour on two cores, and downloads nothing."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import FluxPipeline

from simpletuner.demo import MODEL, architecture, autoencoder, shapes, transformer
from simpletuner.demo.tokenizers import clip_tokenizer, t5_tokenizer
from simpletuner.demo.work import Work


def main() -> None:
    """Train what is not trained yet, then put the pipeline where the package looks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("cache/demo-model"), help="where a broken run resumes from")
    parser.add_argument("--out", type=Path, default=MODEL, help="where to put the finished pipeline")
    parser.add_argument("--seed", type=int, default=0, help="what all random draws follow from")
    parser.add_argument("--threads", type=int, default=2, help="how many cores to use")
    parser.add_argument("--bf16", action="store_true", help="faster with AVX-512 BF16, slower without")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    write(pretrained_pipeline(Work(options.work, seed=options.seed, bf16=options.bf16)), options.out)


def pretrained_pipeline(work: Work) -> FluxPipeline:
    """The whole model, trained on everything but the scenes held out."""
    torch.manual_seed(work.seed)
    pipeline = untrained_pipeline()
    autoencoder.train(pipeline.vae, work)
    transformer.train(pipeline, work)
    return pipeline


def untrained_pipeline() -> FluxPipeline:
    """The whole model before its first step."""
    vae = architecture.autoencoder()
    captions = [caption for scene in shapes.scenes() for caption in shapes.captions(scene)]
    tokenizer, tokenizer_2 = clip_tokenizer(captions), t5_tokenizer(captions)
    return FluxPipeline(
        scheduler=architecture.scheduler(),
        vae=vae,
        tokenizer=tokenizer,
        text_encoder=architecture.clip_encoder(tokenizer),
        tokenizer_2=tokenizer_2,
        text_encoder_2=architecture.t5_encoder(tokenizer_2),
        transformer=architecture.transformer(),
    )


def write(pipeline: FluxPipeline, folder: Path) -> None:
    """Store the pipeline in bf16, replacing the folder as a whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    pipeline.to(torch.bfloat16).save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


if __name__ == "__main__":
    main()
