"""The parts of the demo model before training: Flux in miniature, each part small enough to commit."""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

TEXT_LENGTH = 24
"""Tokens of a caption, for both tokenizers: our longest takes 14, and new words are spelled."""


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's own."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def autoencoder() -> AutoencoderKL:
    """16 channels at an eighth of the side, as FLUX.1's; started so that training gets going at once."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(_VAE_CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(_VAE_CHANNELS),
        block_out_channels=_VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        # One group: with so few channels, more groups would normalise each channel by itself and lose its colour.
        norm_num_groups=1,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=128,
        force_upcast=False,
    )
    for name, convolution in vae.named_modules():
        if isinstance(convolution, nn.Conv2d):
            _start(convolution, is_end_of_residual=name.endswith("conv2"), is_residual=name.endswith("conv1"))
    log_variance = slice(_LATENT_CHANNELS, None)
    nn.init.zeros_(vae.encoder.conv_out.weight[log_variance])
    nn.init.constant_(vae.encoder.conv_out.bias[log_variance], -6.0)
    return vae


def transformer() -> FluxTransformer2DModel:
    """A Flux of dev's kind; every block starts as the identity (adaLN-zero, https://arxiv.org/abs/2212.09748)."""
    model = FluxTransformer2DModel(
        in_channels=4 * _LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=5,
        num_attention_heads=4,
        attention_head_dim=32,
        axes_dims_rope=(8, 12, 12),
        joint_attention_dim=_TEXT_WIDTH,
        pooled_projection_dim=_TEXT_WIDTH,
        guidance_embeds=True,
    )
    modulations = [module for name, module in model.named_modules() if name.endswith(_MODULATIONS)]
    for linear in [*modulations, model.proj_out]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Gives the one vector that stands for the whole caption."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Gives one vector a token."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=_TEXT_WIDTH,
            d_kv=32,
            d_ff=2 * _TEXT_WIDTH,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
        )
    )


def _start(convolution: nn.Conv2d, *, is_end_of_residual: bool, is_residual: bool) -> None:
    """Orthogonal trunk, silent residual branches: the default start leaves a tiny autoencoder grey for a long time."""
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    if is_end_of_residual:
        nn.init.zeros_(convolution.weight)
    elif not is_residual:
        nn.init.orthogonal_(convolution.weight)


_VAE_CHANNELS = (16, 32, 48, 64)
_LATENT_CHANNELS = 16
_TEXT_WIDTH = 64
_MODULATIONS = ("norm.linear", "norm1.linear", "norm1_context.linear")
