"""The end of a run by a signal: a checkpoint of the last complete round, ``env.close()``, an exit code, in a bounded time."""

from __future__ import annotations

import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback

from sb3_nigt.algorithms.watchdog import Watchdog
from sb3_nigt.errors import Preempted, warn_user


class RoundSaver(BaseCallback):
    """
    A callback that can save the model as it was after the last complete round, and names the signals that end a run that way.

    :param signals: the signals that end the run
    :param grace: seconds from the first signal after which the process ends, whatever it is doing
    :param verbose: verbosity level
    """

    def __init__(self, signals: Sequence[signal.Signals], grace: float, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.signals, self.grace = signals, grace

    @abstractmethod
    def save_last_round(self) -> None:
        """Save the model, unless that has been done; called when the model is as it was when the last round was complete."""


def savers_in(callback: Any) -> list[RoundSaver]:
    """
    Find the callbacks that save rounds.

    :param callback: what ``learn`` was given
    """
    if isinstance(callback, RoundSaver):
        return [callback]
    members: Iterable[Any] = ()
    if isinstance(callback, list):
        members = callback
    elif isinstance(callback, CallbackList):
        members = callback.callbacks
    elif isinstance(callback, EventCallback):
        members = (callback.callback,)
    return [saver for member in members for saver in savers_in(member)]


class Preemption:
    """
    Turns signals into ``Preempted`` while it is entered, in the main thread only.

    The exception is raised at once while a round is being sampled, which changes nothing that is saved; at another time, when
    the next round begins. A signal that has a handler already keeps it, unless it is Ray's, which only ends the process.

    :param savers: callbacks of the run; without any, or in another thread, nothing is done
    """

    def __init__(self, savers: Sequence[RoundSaver]) -> None:
        self._savers = savers
        self._usual: dict[signal.Signals, Any] = {}
        self._watchdog: Watchdog | None = None
        self._is_allowed = self._is_raised = False
        self._came: signal.Signals | None = None

    def __enter__(self) -> Preemption:
        wanted = {number for saver in self._savers for number in saver.signals}
        if not wanted or threading.current_thread() is not threading.main_thread():
            return self
        for number in wanted:
            usual = signal.getsignal(number)
            if usual is signal.SIG_DFL or getattr(usual, "__module__", "").startswith("ray."):
                self._usual[number] = usual
                signal.signal(number, self._take)
        if self._usual:
            _entered.append(self)
            self._watchdog = Watchdog(self.signals, min(saver.grace for saver in self._savers))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if self._watchdog is not None:
            _entered.remove(self)
            self._watchdog.close()
        if self._came is not None and kind is None:  # it came after the last look
            raise Preempted(self._came.name)

    @property
    def signals(self) -> set[signal.Signals]:
        """Signals whose handler this is."""
        return set(self._usual)

    def _restore(self) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)

    def forget_in_child(self) -> None:
        """Leave a forked process, such as one that an environment starts, as it would be without this."""
        self._restore()
        signal.set_wakeup_fd(-1)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._came = signal.Signals(number)
        if self._is_allowed:
            self.check()

    def check(self) -> None:
        """
        End the run if a signal has come.

        :raises Preempted: once
        """
        if self._came is not None and not self._is_raised:
            self._is_raised = True
            raise Preempted(self._came.name)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within it the exception may be raised at any moment; again, if an environment has caught it."""
        self._is_allowed, self._is_raised = True, False
        try:
            self.check()
            yield
        finally:
            self._is_allowed = False

    def whole(self, action: Callable[[], None]) -> Callable[[], None]:
        """
        Return an action that no signal ends in its middle.

        :param action: an action that changes the model
        """

        def act() -> None:
            before, self._is_allowed = self._is_allowed, False
            try:
                action()
            finally:
                self._is_allowed = before
            if before:
                self.check()

        return act

    def save(self) -> None:
        """Let the callbacks save what the last complete round has left; one that cannot does not keep the others from it."""
        for saver in self._savers:
            try:
                saver.save_last_round()
            except Exception as error:  # the run still ends as the signal wants, with the checkpoints that there are
                warn_user(f"{type(saver).__name__} could not save the last round: {type(error).__name__}: {error}.")


_entered: list[Preemption] = []


_usual_mask = threading.local()


def _hold_signals() -> None:
    """A signal to the forked process waits until that one has the usual handlers, or it would be lost or end a run there."""
    _usual_mask.value = signal.pthread_sigmask(signal.SIG_BLOCK, {number for one in _entered for number in one.signals})


def _let_signals_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _usual_mask.value)


def _forget_in_child() -> None:
    for preemption in reversed(_entered):
        preemption.forget_in_child()
    _entered.clear()
    _let_signals_go()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_go, after_in_child=_forget_in_child)
