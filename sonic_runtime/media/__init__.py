"""Pictures, sound and video: read as if they were hostile, written whole or not at all."""
