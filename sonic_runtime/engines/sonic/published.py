"""The sizes of the published networks, for those who plan or measure without having the weights.

Loading a model goes by the configurations beside its weights instead.
"""

from __future__ import annotations

from typing import Any

UNET: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280],
    "num_attention_heads": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "num_frames": 25,
}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
CLIP: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
WHISPER: dict[str, Any] = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
}
AUDIO_PROJECTOR: dict[str, int] = {
    "seq_len": 10,
    "blocks": 5,
    "channels": 384,
    "intermediate_dim": 1024,
    "output_dim": 1024,
    "context_tokens": 32,
}
MOTION_BUCKETS: dict[str, int] = {
    "seq_len": 50,
    "blocks": 1,
    "channels": 384,
    "clip_channels": 1024,
    "intermediate_dim": 1024,
    "output_dim": 1,
    "context_tokens": 2,
}
SCHEDULER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
INTERPOLATOR_CHANNELS = 90
