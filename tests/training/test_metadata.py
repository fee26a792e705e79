"""What an adapter file says about its run: what other programs read, and nothing private when that is asked for."""

import json

from simpletuner.training.metadata import Images, Session, modelspec, private, session, tag_frequency

RUN = Session(
    name="zorb",
    base="black-forest-labs/FLUX.1-dev",
    rank=16,
    alpha=8.0,
    steps=1000,
    batch_size=4,
    accumulation=2,
    learning_rate=1e-4,
    optimizer="adamw_bf16",
    schedule="cosine",
    warmup=10,
    seed=42,
    precision="bf16",
    resolution="1024x768",
    images=(
        Images("zorbs", 3, 10, False, ["a ghost, red", "a ghost, blue", "Red, in a field"]),
        Images("others", 5, 1, True, ["a house"]),
    ),
)


def test_a_run_is_told_by_the_names_of_sd_scripts():
    said = session(RUN)
    assert all(isinstance(value, str) and value for value in said.values())
    assert said["ss_network_dim"] == "16" and said["ss_network_alpha"] == "8"
    assert said["ss_num_train_images"] == "30" and said["ss_num_reg_images"] == "5"
    assert json.loads(said["ss_dataset_dirs"]) == {"zorbs": {"n_repeats": 10, "img_count": 3}}
    assert json.loads(said["ss_tag_frequency"]) == {"zorbs": {"a ghost": 2, "red": 2}}
    assert said["ss_learning_rate"] == "0.0001" and said["ss_resolution"] == "(1024, 768)"


def test_the_private_switch_keeps_only_what_is_needed_to_use_the_file():
    said = session(RUN, is_private=True) | modelspec(
        architecture="flux-1-dev/lora",
        title="zorb",
        resolution="1024x768",
        triggers=["zorb"],
        comment="for Ada",
        is_private=True,
    )
    text = json.dumps(said)
    assert not any(word in text for word in ("zorb", "ghost", "Ada", "FLUX.1-dev", "0.0001"))
    assert said["ss_network_dim"] == "16" and said["modelspec.architecture"] == "flux-1-dev/lora"
    assert private(said) == said


def test_tags_are_counted_once_a_caption_and_captions_of_single_images_stay_out():
    captions = ["cat, cat, a cat that belongs to my neighbour", "Cat, dog", "dog"]
    assert tag_frequency(captions) == {"cat": 2, "dog": 2}
