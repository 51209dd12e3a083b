"""Renders: a portrait and a voice in, a video out. Knows nothing of hubs."""

import os

# On Linux onnxruntime's own wheels report to their maker unless this stands before the first import. Faces and voices
# are personal data, and edge boxes often have no way out: nothing here calls home unless its operator wants it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # of huggingface_hub, diffusers and transformers
