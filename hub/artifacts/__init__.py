"""Portraits, voices and videos, kept by the hash of their bytes under the tenant that owns them."""
