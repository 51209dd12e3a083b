"""The caller's files, looked at before any work: inputs that can be read, outputs that replace none of them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Container
from pathlib import Path

from sonic.exceptions import FileTrouble

NAME_BYTES = 232  # of the 255 that file systems allow: what is kept beside a video that arrives has 23 more


def check_inputs(*paths: Path) -> None:
    """Raises FileTrouble for a file that is missing, empty or cannot be read."""
    for path in paths:
        try:
            if not path.is_file():
                missing = f"{path} is a folder; name a file" if path.is_dir() else f"there is no file {path}"
                raise FileTrouble(missing)
            with path.open("rb") as file:
                empty = not file.read(1)
        except OSError as error:
            raise FileTrouble(f"{path} cannot be read: {error.strerror}") from error
        if empty:
            raise FileTrouble(f"{path} is empty; choose another file")


def check_output(output: Path, *inputs: Path) -> None:
    """Raises FileTrouble where no video can be written."""
    if problem := output_problem(output, {path.resolve() for path in inputs}):
        raise FileTrouble(f"--out {problem}")


def check_unused(output: Path, advice: str = "name the video with -o") -> None:
    """A name that nobody has chosen replaces nothing. Raises FileTrouble."""
    if os.path.lexists(output):
        raise FileTrouble(f"{output} is already there; {advice}")


def name_problem(name: str) -> str | None:
    """Why a file cannot have this name if it is to hold a video, or None."""
    if Path(name).suffix.lower() != ".mp4":
        return f"is {name!r}, which does not end in .mp4, the only format that is written"
    return None


def output_problem(output: Path, inputs: Container[Path]) -> str | None:
    """Why no video can be written there, or None. `inputs` are resolved."""
    if (size := len(os.fsencode(output.name))) > NAME_BYTES:
        return f"is '{output}', whose name has {size} bytes; {NAME_BYTES} is the limit, choose a shorter one"
    resolved = Path(os.path.realpath(output))  # Path.resolve raises for a link that leads back to itself
    if resolved in inputs:
        return f"is '{output}', which is an input; name another file"
    try:
        if stat.S_ISDIR(resolved.stat().st_mode):
            return f"is '{output}', which is a folder; name a file in it"
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        return f"is '{output}', which cannot be written: {error.strerror}; name another file"
    folder = next(folder for folder in output.absolute().parents if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"is '{output}', and the folder {folder} cannot be written: {error.strerror}; choose another folder"
