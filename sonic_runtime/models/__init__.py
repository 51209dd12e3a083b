"""Models that the engines need: where they are, and how they get there."""

from sonic_runtime.models.catalogue import KNOWN, UnknownModel, find
from sonic_runtime.models.fetching import Model, Store, draw_tiny, fetch, listing, named, path, verify, whole
from sonic_runtime.models.folder import FetchFailed, root
from sonic_runtime.models.licences import LicenceNotAccepted

__all__ = [
    "KNOWN",
    "FetchFailed",
    "LicenceNotAccepted",
    "Model",
    "Store",
    "UnknownModel",
    "draw_tiny",
    "fetch",
    "find",
    "listing",
    "named",
    "path",
    "root",
    "verify",
    "whole",
]
