"""Calls that may never return, as a driver's when its GPU is gone: nobody waits for one longer than its limit.

They run in daemon threads, so one that hangs does not keep the process from ending.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class NoAnswer(Exception):
    """It has not returned in time, or the call before it still has not."""


class Patience:
    """With one that is called again and again. While a call hangs, none is made after it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: Future[Any] | None = None

    def call(self, read: Callable[[], T]) -> T:
        """What it returns or raises. Raises NoAnswer, with the same words for as long as it hangs."""
        if self._last and not self._last.done():
            raise self._no_answer
        answer: Future[T] = Future()
        self._last = answer
        Thread(target=_answer, args=(answer, read), name="driver call", daemon=True).start()
        if not wait([answer], self._limit_s).done:
            raise self._no_answer
        return answer.result()

    @property
    def _no_answer(self) -> NoAnswer:
        return NoAnswer(f"it has not answered within {self._limit_s:g} s")


def _answer(answer: Future[T], read: Callable[[], T]) -> None:
    try:
        answer.set_result(read())
    except BaseException as error:  # whatever it is, the call is over
        answer.set_exception(error)
