"""Becomes the program that it is given, tied to the process that started it: when that one dies, so does it.

Run as a script of its own between fork and exec, since nothing but exec is safe after a fork in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """`tether.py PARENT_PID PROGRAM ARGUMENTS…`"""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if os.getppid() != parent:
        sys.exit("the agent has died")
    try:
        os.execvp(program[0], program)  # noqa: S606 - the operator's own command
    except OSError as error:
        sys.exit(f"{program[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
