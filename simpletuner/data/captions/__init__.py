"""What is said about each image: from file names, text files, tables or one prompt for all, in one canonical spelling.

All texts that training can ask for are known beforehand, so that they are encoded once. What one use gets is drawn
from them by the same functions, so that whatever training looks up has been encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from simpletuner.data.captions import pipeline as caption_pipeline
from simpletuner.data.captions.filters import filtered
from simpletuner.data.captions.pipeline import Moment
from simpletuner.data.captions.shuffle import shuffled
from simpletuner.data.captions.spelling import canonical
from simpletuner.data.dice import share
from simpletuner.data.sections import CaptionPipeline, CaptionShuffle
from simpletuner.schema import Choice
from simpletuner.seeds import derive


@dataclass(frozen=True)
class Rules:
    """Where one data set finds its captions, and what is added to them."""

    strategy: str = "filename"
    instance_prompts: tuple[str, ...] = ()
    prepend_instance_prompt: bool = False
    only_instance_prompt: bool = False
    disable_multiline_split: bool = False
    extension: str = ".txt"
    fallback: str = ""
    """The caption of images without any."""
    shuffle: CaptionShuffle | None = None
    pipeline: CaptionPipeline | None = None
    filters: tuple[str, ...] = ()
    """What is taken out of captions, entry by entry, as `caption_filters.load_filters` gives it."""
    dropout: float = 0.0
    """The share of uses without a caption."""
    seed: int = 0
    """Where shuffles and other variants come from."""

    @property
    def reads_text_files(self) -> bool:
        """Whether a caption file is needed beside each image."""
        return self.strategy == "textfile" and not self.only_instance_prompt


@dataclass(frozen=True)
class Use:
    """One use of one image in training."""

    sample: int
    """Counts all samples since the beginning; the same on any number of processes."""
    epoch: int
    """Counted from 1."""
    step: int
    """Counted from 0."""
    total_steps: int


def alternatives(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """Every text that any use of an image can need, each once; none when there is nothing to say about the image.

    A single empty text means that there is a caption, but nothing of it is left.

    Args:
        key: The image's path inside its data set.
        texts: The content of its caption file, or what its source says about it; nothing if there is neither.
        rules: How the data set makes captions.
    """
    found = stated(key, texts, rules)
    if rules.pipeline is None and rules.shuffle is None and not rules.filters and not _prepends(rules):
        return found if len(found) < 2 else tuple(dict.fromkeys(found))
    made = [text for place, caption in enumerate(found) for text in _expanded(caption, key, place, rules)]
    finished = (_finished(prompt, text, rules) for prompt in _prompts(rules) for text in made)
    return tuple(dict.fromkeys(text for text in finished if text)) or ("",) * bool(found)


def chosen(found: Sequence[str], key: str, texts: tuple[str, ...] | None, rules: Rules, use: Use, seed: int) -> str:
    """The text for one use of an image: one of its alternatives, or nothing when the caption is dropped.

    Args:
        found: The `alternatives` of the image.
        key: The image's path inside its data set.
        texts: What the alternatives were made of.
        rules: How the data set makes captions.
        use: Which use it is; nothing else changes the draw.
        seed: The seed of the run.
    """
    if not found or dropped(rules, use, seed):
        return ""
    if rules.pipeline is not None and caption_pipeline.varies(rules.pipeline):
        return _varied(stated(key, texts, rules), key, rules, rules.pipeline, use, seed)
    return found[0] if len(found) == 1 else found[derive(seed, "caption", use.sample) % len(found)]


def dropped(rules: Rules, use: Use, seed: int) -> bool:
    """Whether one use of an image goes without its caption."""
    pipeline, rate = rules.pipeline, rules.dropout
    if pipeline is not None:
        every = pipeline.caption_dropout_every_n_epochs
        if every and use.epoch % every == 0:
            return True
        rate = rate if pipeline.caption_dropout_rate is None else pipeline.caption_dropout_rate
    return rate > 0 and share(derive(seed, "caption dropout", use.sample)) < rate


def stated(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The captions of an image as they were written, before anything is put in front, moved or taken out."""
    if rules.only_instance_prompt:
        return _spelled(rules.instance_prompts)
    raw = CAPTION_STRATEGIES[rules.strategy](key, texts, rules)
    if rules.pipeline is not None and rules.pipeline.enable_wildcard and not rules.disable_multiline_split:
        raw = tuple(line for text in raw for line in text.splitlines())
    return _spelled(raw) or _spelled((rules.fallback,))


def conflicts(rules: Rules) -> Iterator[tuple[str, str]]:
    """Options that contradict each other, each with what to change."""
    pipeline = rules.pipeline
    if pipeline is None:
        return
    if rules.shuffle is not None and rules.shuffle.enable:
        yield "caption_shuffle", "caption_pipeline changes captions too; take one of them, with shuffle_caption in it"
    marks = ("caption_separator", "secondary_separator", "keep_tokens_separator")
    texts = {name: text for name in marks if (text := pipeline.__dict__[name])}
    for place, (name, text) in enumerate(texts.items()):
        for other, earlier in list(texts.items())[:place]:
            if text == earlier:
                yield f"caption_pipeline › {name}", f"'{text}' is {other} already; choose another one"


def _spelled(captions: Iterable[str]) -> tuple[str, ...]:
    return tuple(caption for text in captions if (caption := canonical(text)))


def _prepends(rules: Rules) -> bool:
    """A prompt is not put in front of itself."""
    itself = CAPTION_STRATEGIES[rules.strategy] is from_instance_prompt
    return rules.prepend_instance_prompt and not rules.only_instance_prompt and not itself


def _prompts(rules: Rules) -> tuple[str, ...]:
    return _spelled(rules.instance_prompts) or ("",) if _prepends(rules) else ("",)


def _expanded(caption: str, key: str, place: int, rules: Rules) -> Iterable[str]:
    """Everything that one caption of an image can become; `place` counts its captions."""
    if rules.pipeline is not None:
        return caption_pipeline.results(caption, rules.pipeline, _pipeline_seed(key, place, rules))
    return (caption,) if rules.shuffle is None else shuffled(caption, rules.shuffle, rules.seed)


def _pipeline_seed(key: str, place: int, rules: Rules) -> int:
    return derive(rules.seed, "caption variants", key, place)


def _finished(prompt: str, text: str, rules: Rules) -> str:
    whole = f"{prompt} {text}" if prompt else text
    return canonical(filtered(whole, rules.filters) if rules.filters else whole)


def _varied(captions: Sequence[str], key: str, rules: Rules, pipeline: CaptionPipeline, use: Use, seed: int) -> str:
    """What the pipeline makes of one of the captions for this use."""
    place = derive(seed, "caption", use.sample) % len(captions)
    moment = Moment(derive(seed, "caption variant", use.sample), use.step, use.total_steps)
    text = caption_pipeline.result(captions[place], pipeline, _pipeline_seed(key, place, rules), moment)
    prompts = _prompts(rules)
    return _finished(prompts[derive(seed, "instance prompt", use.sample) % len(prompts)], text, rules)


def from_filename(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The name of the image file, with spaces for underscores."""
    return (PurePosixPath(key).stem.replace("_", " "),)


def from_text_file(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The .txt file of the same name beside the image; each line is an alternative."""
    if not texts or rules.disable_multiline_split:
        return texts or ()
    lines = tuple(line for text in texts for line in text.splitlines())
    if rules.pipeline is not None and not rules.pipeline.enable_wildcard:
        return _spelled(lines)[:1]  # as in sd-scripts, where only wildcards look beyond the first line
    return lines


def from_instance_prompt(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The instance_prompt, the same for all images."""
    return rules.instance_prompts


def from_csv(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The column csv_caption_column of the list of addresses."""
    return texts or ()


def from_parquet(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The caption column of the table in parquet; a list in it holds alternatives."""
    return texts or ()


def from_hub(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """The caption column of a data set from the Hugging Face Hub; a list in it holds alternatives."""
    return texts or ()


def from_shard(key: str, texts: tuple[str, ...] | None, rules: Rules) -> tuple[str, ...]:
    """What the shard itself says about each image."""
    return texts or ()


Strategy = Callable[[str, tuple[str, ...] | None, Rules], tuple[str, ...]]

CAPTION_STRATEGIES: Choice[Strategy] = Choice(
    "caption strategy",
    {
        "filename": from_filename,
        "textfile": from_text_file,
        "instanceprompt": from_instance_prompt,
        "instance_prompt": from_instance_prompt,
        "csv": from_csv,
        "parquet": from_parquet,
        "huggingface": from_hub,
        "webshart": from_shard,
    },
)
