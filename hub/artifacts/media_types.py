"""What a file is, by its first bytes. The hub never decodes: nodes do, in processes that may be lost."""

from __future__ import annotations

HEAD_BYTES = 32
UNKNOWN = "application/octet-stream"
PORTRAITS = ("image/jpeg", "image/png", "image/webp", "image/heic")

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (8, b"WEBP", "image/webp"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (8, b"AIFF", "audio/aiff"),
    (0, b"%PDF", "application/pdf"),
)
_BRANDS = {
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"mif1": "image/heic",
    b"msf1": "image/heic",
    b"avif": "image/avif",
    b"M4A ": "audio/mp4",
}


def media_type(head: bytes) -> str:
    """The type of a file that begins with `head` (HEAD_BYTES bytes are enough), or UNKNOWN."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # an MPEG audio frame or ADTS
        return "audio/mpeg"
    return UNKNOWN


def portrait_problem(name: str) -> str | None:
    """Why a file of this type cannot be a portrait, or None."""
    if name in PORTRAITS:
        return None
    return f"is {name}; send one of {', '.join(PORTRAITS)}"


def voice_problem(name: str) -> str | None:
    """Why a file of this type cannot be a voice recording, or None. What is not recognised may still be audio."""
    if name.startswith(("audio/", "video/")) or name == UNKNOWN:
        return None
    return f"is {name}; send an audio file, for example WAV, MP3, M4A, FLAC or OGG"
