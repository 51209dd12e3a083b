"""Generate sonic/v1 from proto/. `--check` only says whether what is committed is what would be generated."""

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path) -> None:
    import grpc_tools

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run([*command, *outputs, *protos], check=True, env={**os.environ, "PATH": plugins})
    for stub in (out / "sonic/v1").glob("*_pb2_grpc.py*"):
        if not stub.name.removesuffix("i").removesuffix("_pb2_grpc.py").endswith("_service"):
            stub.unlink()  # a file without a service has nothing to serve


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = Path(folder) / "sonic/v1", ROOT / "sonic/v1"
        names = {path.name for path in fresh.iterdir()}
        stale = {path.name for path in committed.glob("*_pb2*")} - names
        _, changed, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
        if "--check" in sys.argv:
            for name in sorted([*changed, *missing, *stale]):
                print(f"sonic/v1/{name} is not what proto/ generates: run `make proto`")
            return 1 if changed or missing or stale else 0
        for name in stale:
            (committed / name).unlink()
        for name in names:
            (committed / name).write_bytes((fresh / name).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
