"""The design's import rules: cores decide without I/O or clock, and the parts know each other only by the wire."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sonic", "hub", "agent", "sonic_runtime")
IMPURE = {
    *("aiohttp", "asyncio", "concurrent", "datetime", "grpc", "io", "obstore", "os", "pathlib", "random", "secrets"),
    *("select", "shutil", "signal", "socket", "sqlalchemy", "sqlite3", "subprocess", "tempfile", "threading", "time"),
    *("urllib", "uuid"),
}
FORBIDDEN = {
    "hub": {"agent", "sonic_runtime", "torch"},
    "agent": {"hub", "sonic_runtime", "torch", "numpy", "onnxruntime", "cv2", "av"},
    "sonic_runtime": {"hub", "agent", "grpc"},
}


def modules_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if "_pb2" not in path.name]


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", ["hub", "agent"])
def test_cores_touch_neither_io_nor_the_clock(package: str) -> None:
    modules = modules_of(ROOT / package / "core")
    assert modules
    for path in modules:
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert not roots & IMPURE, f"{path.relative_to(ROOT)} imports {sorted(roots & IMPURE)}"
        outside = {name for name in imports_of(path) if name.startswith(f"{package}.")}
        assert all(name.startswith(f"{package}.core") for name in outside), f"{path.relative_to(ROOT)}: {outside}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_parts_know_each_other_only_by_the_wire(package: str) -> None:
    for path in modules_of(ROOT / package):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert not roots & FORBIDDEN[package], f"{path.relative_to(ROOT)} imports {sorted(roots & FORBIDDEN[package])}"


def test_torchaudio_is_known_to_one_module() -> None:
    knowing = {
        path.relative_to(ROOT) for path in modules_of(ROOT / "sonic_runtime") if "torchaudio" in path.read_text()
    }
    assert knowing == {Path("sonic_runtime/engines/sonic/resampling.py")}


def test_sql_of_one_kind_of_database_is_in_one_module() -> None:
    for path in modules_of(ROOT / "hub"):
        if path.relative_to(ROOT) != Path("hub/store/database.py"):
            dialects = {name for name in imports_of(path) if name.startswith("sqlalchemy.dialects")}
            assert not dialects, path
            assert "PRAGMA" not in path.read_text(), path
