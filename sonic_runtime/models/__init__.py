"""Models that the engines need: where they are, and how they get there."""

from sonic_runtime.models.folder import Model, fetch, listing, path, root, verify
from sonic_runtime.models.packages import FetchFailed

__all__ = ["FetchFailed", "Model", "fetch", "listing", "path", "root", "verify"]
