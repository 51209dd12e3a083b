"""Files that are published on the Hugging Face hub: downloaded from there, or taken from a folder that has them.

huggingface_hub decides what is asked of whom: HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE and its cache hold.
A download that was cut goes on where it stopped, which huggingface_hub's own does not.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sonic_runtime.models.folder import FetchFailed, File, copy, sha256_of

Say = Callable[[str], None]
_TWIN = {".pth": ".safetensors", ".pkl": ".safetensors"}  # taken instead where a folder has it
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a commit, or at whatever a branch is when it is asked."""

    name: str
    revision: str


@dataclass(frozen=True)
class Published:
    """A file of a repository."""

    repository: Repository
    file: str
    folder: str = ""  # where the model has it, with a slash behind
    sha256: str = ""  # empty: not known beforehand
    optional: bool = False

    @property
    def path(self) -> str:
        """In the model's folder."""
        return self.folder + self.file


@dataclass(frozen=True)
class _Offer:
    """What the hub says of a file."""

    url: str
    commit: str
    digest: str  # SHA-256 of a large file, of others git's hash
    bytes: int


def fetch(files: Sequence[Published], into: Path, say: Say) -> tuple[File, ...]:
    """Download what is missing of the files; the folder keeps what has arrived. Raises FetchFailed, OSError."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return tuple(_from_cache(file, into) for file in files if not file.optional or _cached(file))
    offers = _offers(files)
    missing = [file for file in offers if not (into / file.path).exists()]
    wanted = sum(offers[file].bytes for file in missing)
    arrived = sum(_part(into, file, offers[file]).stat().st_size for file in missing if _has_part(into, file, offers))
    free = shutil.disk_usage(into).free
    if wanted - arrived > free:
        raise FetchFailed(
            f"{_mb(wanted - arrived)} are still to come, but {into} has room for {_mb(free)}; "
            "make room, or set SONIC_MODELS to another folder"
        )
    return tuple(_arrived(file, offer, into, say) for file, offer in offers.items())


def take(files: Sequence[Published], folder: Path, into: Path) -> tuple[File, ...]:
    """Copy the files out of a folder that has them under the same names. Raises FetchFailed, OSError.

    A .safetensors file is taken rather than the pickle of that name.
    """
    found = {file: _find(file, folder) for file in files}
    missing = [file.path for file, path in found.items() if not path and not file.optional]
    if missing:
        raise FetchFailed(f"{folder} has no {', '.join(missing)}")
    return tuple(_copied(file, path, path.relative_to(folder), into) for file, path in found.items() if path)


def _find(file: Published, folder: Path) -> Path | None:
    path = folder / file.path
    twin = path.with_suffix(_TWIN.get(path.suffix, path.suffix))
    return next((candidate for candidate in (twin, path) if candidate.is_file()), None)


def _copied(file: Published, source: Path, name: Path, into: Path) -> File:
    target = into / name
    digest = copy(source, target)
    if file.sha256 and name.as_posix() == file.path and digest != file.sha256:
        target.unlink()
        raise FetchFailed(f"{source} has the SHA-256 {digest}; {file.sha256} was published")
    return File(name.as_posix(), digest, target.stat().st_size)


def _cached(file: Published) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repository.name, file.file, revision=file.repository.revision)
    return Path(found) if isinstance(found, str) else None


def _from_cache(file: Published, into: Path) -> File:
    if not (cached := _cached(file)):
        raise FetchFailed(
            f"HF_HUB_OFFLINE is set, and {file.file} of {file.repository.name} is not in huggingface_hub's cache; "
            "unset it, or name a folder that has the files with --from"
        )
    blob = cached.resolve()
    taken = _copied(file, blob, Path(file.path), into)
    if len(blob.name) == 64 and taken.sha256 != blob.name:  # of a large file the cache's name is its hash
        raise FetchFailed(f"{cached} is broken: it has the SHA-256 {taken.sha256}; remove it and fetch again")
    return File(taken.path, taken.sha256, taken.bytes, f"{file.repository.name}@{cached.parts[-1 - _depth(file)]}")


def _depth(file: Published) -> int:
    return len(Path(file.file).parts)


def _offers(files: Sequence[Published]) -> dict[Published, _Offer]:
    """What the hub has, all of a repository at one commit."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    commits: dict[str, str] = {}
    offers = {}
    for file in files:
        name = file.repository.name
        url = hf_hub_url(name, file.file, revision=commits.get(name, file.repository.revision))
        with _asking(file):
            try:
                told = get_hf_file_metadata(url)
            except EntryNotFoundError:
                if file.optional:
                    continue
                raise
        if not (told.etag and _DIGEST.fullmatch(told.etag) and told.commit_hash and told.size is not None):
            raise FetchFailed(f"what answers at {url} is no Hugging Face hub; is HF_ENDPOINT right?")
        commits[name] = told.commit_hash
        pinned = hf_hub_url(name, file.file, revision=told.commit_hash)
        offers[file] = _Offer(pinned, told.commit_hash, told.etag, told.size)
        if file.sha256 and len(told.etag) == 64 and told.etag != file.sha256:
            raise FetchFailed(f"{url} has the SHA-256 {told.etag}; {file.sha256} was expected")
    return offers


def _arrived(file: Published, offer: _Offer, into: Path, say: Say) -> File:
    target = into / file.path
    if not target.exists():
        say(f"{file.path} ({_mb(offer.bytes)}) from {offer.url}")
        _download(file, offer, _part(into, file, offer))
    path = target if target.exists() else _part(into, file, offer)
    sha256 = sha256_of(path)
    expected = file.sha256 or offer.digest
    if (sha256 if len(expected) == 64 else _git_hash(path)) != expected:
        path.unlink()
        raise FetchFailed(f"{file.path} as it arrived from {offer.url} has the SHA-256 {sha256}, not {expected}")
    path.replace(target)
    return File(file.path, sha256, target.stat().st_size, f"{file.repository.name}@{offer.commit}")


def _download(file: Published, offer: _Offer, part: Path) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.file_download import http_get

    token = get_token()
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as out, _asking(file):
        if out.tell() > offer.bytes:
            out.truncate(0)
        if out.tell() < offer.bytes:
            http_get(
                offer.url,
                out,
                resume_size=out.tell(),
                headers={"authorization": f"Bearer {token}"} if token else None,
                expected_size=offer.bytes,
                displayed_filename=file.path,
            )


def _part(into: Path, file: Published, offer: _Offer) -> Path:
    """Where a file is while it arrives; another content has another place."""
    target = into / file.path
    return target.with_name(f".{target.name}.{offer.digest[:16]}.part")


def _has_part(into: Path, file: Published, offers: dict[Published, _Offer]) -> bool:
    return _part(into, file, offers[file]).exists()


def _git_hash(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _asking(file: Published) -> Iterator[None]:
    """What the hub's library raises, in our words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    name = file.repository.name
    try:
        yield
    except EntryNotFoundError as error:
        raise FetchFailed(f"{name} has no {file.file} at {file.repository.revision}") from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        where = f"{constants.ENDPOINT}/{name}"
        raise FetchFailed(f"{where} wants a login: accept its terms there and set HF_TOKEN") from error
    except Exception as error:  # those of whatever HTTP library the installed release has
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FetchFailed(f"{file.file} of {name} could not be had from {constants.ENDPOINT}: {said}") from error


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
