"""Keys of older configs: what they are called now, and which ones mean nothing any more or nothing for FLUX."""

from __future__ import annotations

import re
from collections.abc import Mapping

RENAMED: Mapping[str, str] = {
    "save_total_limit": "checkpoints_total_limit",
    "validation_steps": "validation_step_interval",
    "checkpointing_steps": "checkpoint_step_interval",
    "fused_qkv_projections": "fuse_qkv_projections",
    "hub_model_name": "hub_model_id",
    "user_prompt_library_path": "user_prompt_library",
    "prompt_library": "user_prompt_library",
    "timestep_sampling": "flow_timestep_sampling",
    "sigmoid_scale": "flow_sigmoid_scale",
    "discrete_flow_shift": "flow_schedule_shift",
    "weighting_scheme": "flow_weighting_scheme",
    "logit_mean": "flow_logit_mean",
    "logit_std": "flow_logit_std",
    "mode_scale": "flow_mode_scale",
    "model_prediction_type": "flow_prediction_mode",
    "ip_noise_gamma": "input_perturbation",
    "ip_noise_gamma_random_strength": "input_perturbation_random",
}
"""Keys that only have another name now."""

INVERTED: Mapping[str, str] = {
    "vae_cache_preprocess": "vae_cache_ondemand",
    "ignore_final_epochs": "strict_epoch_limit",
}
"""Keys whose opposite is asked for now."""

COUNTERPARTS: Mapping[str, str] = {
    "ae": "pretrained_vae_model_name_or_path",
    "apply_t5_attn_mask": "flux_attention_masked_training",
    "base_weights": "base_adapters",
    "base_weights_multiplier": "base_adapters_strength",
    "caption_dropout_rate": "caption_dropout_probability",
    "clip_l": "text_encoder_path",
    "cpu_offload_checkpointing": "gradient_checkpointing_backend unsloth",
    "dataset_config": "data_backend_config, a file of another form",
    "fp8_base": "base_model_precision fp8-quanto",
    "guidance_scale": "flux_guidance_value",
    "huggingface_repo_id": "hub_model_id, with push_to_hub",
    "log_tracker_name": "tracker_project_name",
    "log_with": "report_to",
    "lr_scheduler_min_lr_ratio": "lr_end, a rate and no share",
    "lr_scheduler_num_cycles": "lr_num_cycles",
    "lr_scheduler_power": "lr_power",
    "lr_scheduler_timescale": "lr_timescale",
    "max_train_epochs": "num_train_epochs",
    "network_alpha": "lora_alpha; 1 there unless given, and the rank here",
    "network_dim": "lora_rank",
    "network_dropout": "lora_dropout, with lora_dropout_position rank",
    "network_module": "lora_type; flux_lora_target ai-toolkit trains the layers that it trains",
    "network_weights": "init_lora",
    "no_half_vae": "vae_dtype fp32",
    "no_metadata": "private_metadata",
    "optimizer_args": "optimizer_config",
    "optimizer_type": "optimizer",
    "output_name": "tracker_run_name",
    "resume": "resume_from_checkpoint",
    "sample_at_first": "validation_on_startup",
    "sample_every_n_epochs": "validation_epoch_interval",
    "sample_every_n_steps": "validation_step_interval",
    "sample_prompts": "user_prompt_library",
    "save_every_n_epochs": "checkpoint_epoch_interval",
    "save_every_n_steps": "checkpoint_step_interval",
    "scale_weight_norms": "lora_max_norm",
    "split_mode": "blocks_to_swap 18",
    "t5xxl": "pretrained_t5_model_name_or_path",
    "t5xxl_max_token_length": "tokenizer_max_length",
    "training_comment": "modelspec_comment",
    "unet_lr": "learning_rate",
    "wandb_run_name": "tracker_run_name",
}
"""Options of sd-scripts whose nearest ones here have other names, and often other defaults: for the user to decide."""

OBSOLETE = frozenset(
    {
        "aspect_ratio_bucketing",
        "aspect_ratio_bucketing_min",
        "aspect_ratio_bucketing_max",
        "ez_model_type",
        "disabled_fields",
        "active_tab",
        "accelerate_visible_devices",
    }
)
"""Keys that have no meaning any more."""

OF_DATA_SETS = frozenset({"repeats"})
"""Keys that each data set has for itself."""

FOREIGN = re.compile(
    "|".join(
        (
            "pretrained_unet_model_name_or_path|pretrained_unet_subfolder|pretrained_gemma_model_name_or_path",
            "qwen_text_encoder_model_name_or_path|pretrained_grounding_model_name_or_path",
            "vae_enable_patch_conv|vae_enable_temporal_roll|audio_.+|framerate|validation_num_video_frames|diff2flow_.+",
            "freeze_encoder(_before|_after|_strategy)?|layer_freeze_strategy|save_text_encoder|data_aesthetic_score",
            "enable_watermark|refiner_training.*|hidream_.+|sd3_.+_uncond_behaviour|sdxl_refiner_uses_full_range",
            "wan_force_2_1_time_embedding|(crepa|irepa|urepa|nextlat|layersync|twinflow|xm|internal_guidance)_(?!enabled$).+",
            "nsfw_.+|(irepa|urepa)_enabled|enable_chunked_feed_forward|feed_forward_chunk_size|video_.+|ltx_.+|wan_.+|sana_.+",
            "enable_xformers_memory_efficient_attention|non_ema_revision|webhook_.+_legacy",
        )
    )
)
"""Keys that belong to other models or to experiments, and do nothing for FLUX."""

ENVIRONMENT_NAMES: Mapping[str, str] = {
    "MODEL_TYPE": "model_type",
    "MODEL_FAMILY": "model_family",
    "MODEL_FLAVOUR": "model_flavour",
    "MODEL_NAME": "pretrained_model_name_or_path",
    "OUTPUT_DIR": "output_dir",
    "DATALOADER_CONFIG": "data_backend_config",
    "TRAINING_SEED": "seed",
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_NUM_MACHINES": "num_machines",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend",
    "MIXED_PRECISION": "mixed_precision",
    "MAX_NUM_STEPS": "max_train_steps",
    "NUM_EPOCHS": "num_train_epochs",
    "TRAIN_BATCH_SIZE": "train_batch_size",
    "GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
    "LEARNING_RATE": "learning_rate",
    "LR_SCHEDULE": "lr_scheduler",
    "LR_SCHEDULER": "lr_scheduler",
    "LR_WARMUP_STEPS": "lr_warmup_steps",
    "LR_END": "lr_end",
    "OPTIMIZER": "optimizer",
    "LORA_TYPE": "lora_type",
    "LORA_RANK": "lora_rank",
    "LORA_ALPHA": "lora_alpha",
    "USE_DORA": "use_dora",
    "USE_EMA": "use_ema",
    "EMA_DECAY": "ema_decay",
    "FLUX_LORA_TARGET": "flux_lora_target",
    "FLUX_GUIDANCE_VALUE": "flux_guidance_value",
    "FLUX_GUIDANCE_MODE": "flux_guidance_mode",
    "CAPTION_DROPOUT_PROBABILITY": "caption_dropout_probability",
    "RESOLUTION": "resolution",
    "RESOLUTION_TYPE": "resolution_type",
    "MINIMUM_RESOLUTION": "minimum_image_size",
    "ASPECT_BUCKET_ROUNDING": "aspect_bucket_rounding",
    "INSTANCE_PROMPT": "instance_prompt",
    "CHECKPOINTING_STEPS": "checkpoint_step_interval",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "VALIDATION_PROMPT": "validation_prompt",
    "VALIDATION_NEGATIVE_PROMPT": "validation_negative_prompt",
    "VALIDATION_STEPS": "validation_step_interval",
    "VALIDATION_SEED": "validation_seed",
    "VALIDATION_RESOLUTION": "validation_resolution",
    "VALIDATION_GUIDANCE": "validation_guidance",
    "VALIDATION_GUIDANCE_REAL": "validation_guidance_real",
    "VALIDATION_NUM_INFERENCE_STEPS": "validation_num_inference_steps",
    "PUSH_TO_HUB": "push_to_hub",
    "PUSH_CHECKPOINTS": "push_checkpoints_to_hub",
    "HUB_MODEL_NAME": "hub_model_id",
    "TRACKER_PROJECT_NAME": "tracker_project_name",
    "TRACKER_RUN_NAME": "tracker_run_name",
    "REPORT_TO": "report_to",
    "ATTENTION_MECHANISM": "attention_mechanism",
    "BASE_MODEL_PRECISION": "base_model_precision",
}
"""Shell variables of a config.env, and the options they stand for."""


LAUNCHER_NAMES: Mapping[str, str] = {
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_NUM_MACHINES": "num_machines",
    "ACCELERATE_CONFIG_PATH": "accelerate_config",
    "ACCELERATE_EXTRA_ARGS": "accelerate_extra_args",
}
"""Environment variables that said how training is launched, and the options they stand for."""


def modernise(flat: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Today's keys for those of older configs, and what there is to say about it."""
    modern: dict[str, object] = {}
    notices: list[str] = []
    for key, value in flat.items():
        for rule in (_renamed, _inverted, _switched, _dropped, _of_another_model):
            told = rule(key, value)
            if told is not None:
                found, said = told
                modern |= {name: one for name, one in found.items() if name not in flat}
                lost = ", ".join(name for name in found if name in flat)
                notices.append(f"{key} has no effect: {lost} is given too" if lost else said)
                break
        else:
            modern[key] = value
    return modern, notices


Told = tuple[Mapping[str, object], str]


def _renamed(key: str, value: object) -> Told | None:
    if key not in RENAMED:
        return None
    return {RENAMED[key]: value}, f"{key} is called {RENAMED[key]} now"


def _inverted(key: str, value: object) -> Told | None:
    if key not in INVERTED:
        return None
    opposite = str(value).strip().lower() in {"false", "0", "no", "off"}
    said = f"{key} is the opposite of {INVERTED[key]} now, which is set to {str(opposite).lower()}"
    return {INVERTED[key]: opposite}, said


def _switched(key: str, value: object) -> Told | None:
    """A switch that chose an optimizer."""
    if key != "use_8bit_adam":
        return None
    if str(value).strip().lower() in {"false", "0", "no", "off", "none"}:
        return {}, f"{key} is ignored: optimizer says which one it is"
    return {"optimizer": "bnb-adamw8bit"}, f"{key} is optimizer bnb-adamw8bit now"


def _dropped(key: str, value: object) -> Told | None:
    if key in OF_DATA_SETS:
        return {}, f"{key} is ignored here, for each data set has its own: set it in the data file"
    if key in OBSOLETE:
        return {}, f"{key} has no meaning any more and is ignored"
    if FOREIGN.fullmatch(key):
        return {}, f"{key} has no effect on FLUX and is ignored"
    return None


def _of_another_model(key: str, value: object) -> Told | None:
    """SimpleTuner's default for SDXL stands in configs that were saved with every option."""
    if key == "pretrained_vae_model_name_or_path" and value == "madebyollin/sdxl-vae-fp16-fix":
        return {}, f"{key} {value} belongs to SDXL and is ignored"
    return None
