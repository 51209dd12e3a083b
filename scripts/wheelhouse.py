"""Everything that boxes without an index need, in one file: `python -m scripts.wheelhouse`, or `make wheelhouse`.

    sonic-wheelhouse-VERSION-cp311-x86_64.tar
      wheels/                  this project's wheel and all that it needs
      requirements-RUNTIME.txt what one kind of box installs, every file by its SHA-256
      models/NAME/VERSION/     models, each with its manifest

Beside it lies a .sha256, to which the rollout holds the file before it copies it to a box.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIMES = {
    "hub": "hub,postgresql",
    "cpu": "agent,runtime",
    "cpu-diffusion": "agent,runtime,diffusion-cpu",
    "nvidia": "agent,gpu",
    "nvidia-diffusion": "agent,gpu,diffusion",
}
"""The extras that each kind of box installs; the names are those of the rollout's sonic_*_runtime."""


def build_wheel(source: Path, into: Path) -> Path:
    """The wheel of a checkout."""
    with tempfile.TemporaryDirectory() as name:
        _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", name, str(source))
        (built,) = Path(name).glob("*.whl")
        return Path(shutil.move(built, into / built.name))


def make(
    wheel: Path,
    out: Path,
    runtimes: Iterable[str] = ("hub", "cpu"),
    models: Iterable[str] = (),
    python: str = "3.11",
    machine: str = "x86_64",
    download: Path | None = None,
) -> Path:
    """The file, in the folder `out`. `download` is a folder that keeps what was downloaded for the next time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _gather(wheel, folder, runtimes, python, machine, download)
        for model in models:
            from sonic_runtime import models as shelf

            path = shelf.path(*shelf.named(model))
            shutil.copytree(path, folder / "models" / path.parent.name / path.name)
        tag = f"cp{python.replace('.', '')}-{machine}"
        return _pack(folder, out / f"sonic-wheelhouse-{wheel.name.split('-')[1]}-{tag}.tar")


def _gather(wheel: Path, into: Path, runtimes: Iterable[str], python: str, machine: str, download: Path | None) -> None:
    (into / "wheels").mkdir(parents=True)
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in (35, 34, 31, 28, 27, 17)] + [f"manylinux2014_{machine}"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--platform={platform}" for platform in platforms]
    for runtime in runtimes:
        with tempfile.TemporaryDirectory() as name:
            known = ["--find-links", str(download)] if download else []
            wanted = f"sonic-fleet[{RUNTIMES[runtime]}] @ {wheel.as_uri()}"
            _pip("download", "--quiet", "--dest", name, *known, *target, wanted)
            wheels = sorted(Path(name).glob("*.whl"))
            (into / f"requirements-{runtime}.txt").write_text("".join(map(_pinned, wheels)))
            for path in wheels:
                if download and path.name != wheel.name:
                    shutil.copy2(path, download / path.name)
                shutil.move(path, into / "wheels" / path.name)


def _pack(folder: Path, target: Path) -> Path:
    # Wheels are compressed already.
    with tarfile.open(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=_anonymous)
    target.with_name(f"{target.name}.sha256").write_text(f"{_sha256(target)}  {target.name}\n")
    return target


def _pinned(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{_sha256(wheel)}\n"


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip {arguments[0]} has failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runtime", action="append", choices=RUNTIMES, help="may be repeated; hub and cpu unless given"
    )
    parser.add_argument("--model", action="append", default=[], help="a model that is here; may be repeated")
    parser.add_argument("--python", default="3.11", help="of the boxes")
    parser.add_argument("--machine", default="x86_64", help="of the boxes: x86_64 or aarch64")
    parser.add_argument("--download", type=Path, help="a folder that keeps what was downloaded")
    parser.add_argument("--wheel", type=Path, help="this project's wheel; built from the checkout unless given")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    wanted = parser.parse_args()
    for made in filter(None, (wanted.out, wanted.download)):
        made.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        wheel = wanted.wheel.resolve() if wanted.wheel else build_wheel(ROOT, Path(name))
        runtimes = wanted.runtime or ("hub", "cpu")
        print(make(wheel, wanted.out, runtimes, wanted.model, wanted.python, wanted.machine, wanted.download))


if __name__ == "__main__":
    main()
