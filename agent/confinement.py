"""Become a worker that can do no more than it needs: `python -m agent.confinement LIMITS PROGRAM ARGUMENTS…`.

The agent puts this before its worker's command. It limits itself, denies itself the network where the system lets it,
and then is replaced by the program, which keeps all of that, and the process id. Own user, read-only folders and memory
are the systemd unit's to set.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_EXPECTED_VICTIM = "500"  # of 1000: when memory runs out, the worker goes before the agent
EXIT_NOT_STARTED = 127
# What workers are told: where things are, and how to compute. Nothing else of the agent's environment is theirs.
_NAMES = {
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("NO_COLOR", "SONIC_ACCEPT_LICENCE", "SONIC_ENCODER", "SONIC_ENGINE_OPTIONS", "SONIC_MODELS"),
    *("SONIC_MODEL_VERSION", "SONIC_PROVIDERS"),
}
_BEGINNINGS = (
    *("LC_", "PYTHON", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "TF32_", "HIP_", "HSA_", "ROCR_", "ROCM_", "AMD_"),
    *("MIOPEN_", "GPU_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "MALLOC_", "ORT_", "TORCH", "PYTORCH_"),
    *("TRITON_", "XDG_", "COVERAGE_"),
)
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


@dataclass(frozen=True)
class Limits:
    """What the system enforces of a worker; None is no limit."""

    file_bytes: int = 4 << 30  # the largest that it may write: videos and states are far smaller
    open_files: int = 4096
    address_bytes: int | None = None  # not where there is a GPU: CUDA reserves far more than it uses


def command(limits: Limits, program: Sequence[str]) -> list[str]:
    """What the agent starts instead of a program."""
    return [sys.executable, "-I", "-S", str(Path(__file__)), json.dumps(asdict(limits)), *program]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a worker may know of the agent's environment."""
    return {
        name: value
        for name, value in given.items()
        if (name in _NAMES or name.startswith(_BEGINNINGS)) and not any(part in name for part in _SECRETS)
    }


def physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main() -> int:
    limits = Limits(**json.loads(sys.argv[1]))
    program = sys.argv[2:]
    _limit(limits)
    if why := _deny_network():
        print(f"the network is open to this worker, as the system does not let it go: {why}", file=sys.stderr)
    try:
        os.execvp(program[0], program)  # noqa: S606
    except OSError as error:
        print(f"{program[0]} could not be started: {error.strerror}", file=sys.stderr)
    return EXIT_NOT_STARTED


def _limit(limits: Limits) -> None:
    os.umask(0o077)
    _lower(resource.RLIMIT_CORE, 0)  # a core would hold portraits and voices
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    if limits.address_bytes is not None:
        _lower(resource.RLIMIT_AS, limits.address_bytes)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_EXPECTED_VICTIM)


def _lower(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (limit, limit))


def _deny_network() -> str:
    """Why the network could not be left behind; empty when it was. A child tries first: half of it would be worse."""
    child = os.fork()
    if child == 0:
        os._exit(0 if not _leave_network() else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        return "it makes no network namespaces for this user; the systemd unit can, see docs/workers.md"
    return _leave_network()


def _leave_network() -> str:
    """A network namespace of its own, in which there is nothing, not even loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return ""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return os.strerror(ctypes.get_errno())
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        return error.strerror or str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
