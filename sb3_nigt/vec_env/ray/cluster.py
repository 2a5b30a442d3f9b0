"""Connecting to Ray: a Ray of our own, or a running cluster, but none that is open to anyone."""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from packaging.version import Version
from ray.util.client import ray as ray_client

OLDEST = Version("2.52")  # the first one with token authentication, and without CVE-2025-62593
START_ATTEMPTS, TOO_SLOW = 5, "timed out during startup"
PROBE_SECONDS = 60.0  # most of which is the start of Python
PROBE = """
import sys, ray
try:
    ray._raylet.GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)
except Exception as error:
    print(type(error).__name__, str(error)[:500], sep=": ")
"""
HOW_TO_AUTHENTICATE = (
    "restart it with RAY_AUTH_MODE=token in the environment of every node and of this script, and the same token in "
    "~/.ray/auth_token everywhere (ray get-auth-token --generate makes one); or give allow_unauthenticated=True if the "
    "network lets no one else in"
)


class Connection:
    """
    A connection to Ray, which may be shared by several ``RayVecEnv``.

    :param ours: whether it was made here, so that the last user closes it; that ends a Ray that was started here
    """

    def __init__(self, ours: bool) -> None:
        self.ours, self.users, self._name = ours, 0, _name()

    @property
    def is_current(self) -> bool:
        """Whether this process is still connected in this way; the user may have called ``ray.shutdown``."""
        return ray.is_initialized() and self._name == _name()

    def release(self) -> None:
        """One user less."""
        self.users -= 1
        if self.users == 0 and self.ours and self.is_current:
            ray.shutdown()


def _name() -> tuple[str, str]:
    context = ray.get_runtime_context()
    return context.gcs_address, context.get_job_id()


_current: Connection | None = None  # of this process; Ray has only one as well


def connect(address: str | None, allow_unauthenticated: bool, cpus: float, resources: Mapping[str, float]) -> Connection:
    """
    Connect to Ray, or take the existing connection; the caller must ``release`` it.

    :param address: "local": a Ray of our own; "auto": the cluster that this machine is part of; "host:port" or
        "ray://host:port"; None: the connection that there is, else RAY_ADDRESS, else a Ray of our own
    :param allow_unauthenticated: whether to accept a Ray that anyone who reaches it may use
    :param cpus: minimum number of CPUs of a Ray of our own
    :param resources: resources of a Ray of our own in addition to CPUs
    :raises ValueError: if Ray is too old, or the address does not fit, or it requires no authentication
    """
    global _current
    check_version(ray.__version__)
    if not ray.is_initialized():
        _open(address or os.environ.get("RAY_ADDRESS") or "local", allow_unauthenticated, cpus, resources)
        _current = Connection(ours=True)
    elif address is not None:
        raise ValueError(
            f"address={address!r} is not allowed, since this process is connected to Ray already: leave address out, or call "
            "ray.shutdown() first."
        )
    elif _current is None or not _current.is_current:  # the user has called ray.init
        if not allow_unauthenticated:
            _check_here()
        _current = Connection(ours=False)
    _current.users += 1
    return _current


def check_version(version: str) -> None:
    """
    Refuse a Ray without token authentication.

    :param version: version of Ray
    :raises ValueError: if it is too old
    """
    if Version(version).release < OLDEST.release:  # a release candidate has the features of its release
        raise ValueError(f'Ray {version} is too old, {OLDEST} or newer is needed: pip install "sb3_nigt[ray]" --upgrade.')


def _open(address: str, allow_unauthenticated: bool, cpus: float, resources: Mapping[str, float]) -> None:
    if address == "local":
        _start(allow_unauthenticated, cpus, resources)
        return
    before = address != "auto" and not address.startswith("ray://")  # else its head can be asked only from there
    if before and not allow_unauthenticated:
        _check_answer(address, _ask_as_a_stranger(address))
    _join(address)
    if not before and not allow_unauthenticated:
        try:
            _check_here()
        except BaseException:
            ray.shutdown()
            raise


def _join(address: str) -> None:
    read_environment()
    try:
        ray.init(address=address)
    except Exception as error:  # its type depends on where Ray notices
        refusal = next((line for line in _said(error) if "authentication" in line.lower()), None)
        if refusal is None:
            raise
        raise ValueError(
            f"The Ray cluster at {address!r} rejects the token of this process: copy ~/.ray/auth_token from the head of "
            f"the cluster to the same place here, or set RAY_AUTH_TOKEN, and RAY_AUTH_MODE=token. Ray says: {refusal}"
        ) from error


def _said(error: BaseException | None) -> Iterator[str]:
    """What an exception says, line by line, then those that it was raised from."""
    while error is not None:
        yield from f"{type(error).__name__}: {error}".splitlines()
        error = error.__cause__


def _start(allow_unauthenticated: bool, cpus: float, resources: Mapping[str, float]) -> None:
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")  # the default of Ray 2.60, not of the versions before
    if mode.lower() == "token":
        _make_token()
    elif not allow_unauthenticated:
        raise ValueError(
            f"RAY_AUTH_MODE={mode!r} is not allowed: Ray listens on all network interfaces, and without a token anyone who "
            "reaches this machine can run code here. Unset it, or give allow_unauthenticated=True."
        )
    read_environment()
    # Ray counts CPUs, it does not reserve them: as many workers as the user asks for, as with ProcessVecEnv
    num_cpus = max(os.cpu_count() or 1, math.ceil(cpus))
    _patiently(partial(ray.init, "local", include_dashboard=False, num_cpus=num_cpus, resources=dict(resources)))


def read_environment() -> None:
    """Have Ray read RAY_AUTH_MODE and the token again: it does so only at its import, and when it first needs the token."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _patiently(start: Callable[[], Any]) -> None:
    """Try again if Ray's node has not started in the 30 s that Ray gives it, which happens on a busy machine."""
    for left in reversed(range(START_ATTEMPTS)):
        try:
            start()
            return
        except Exception as error:  # Ray raises no class of its own
            ray.shutdown()
            if not left or TOO_SLOW not in str(error):
                raise


def _make_token() -> None:
    """Make Ray's token where there is none, readable by this user only; Ray would let all users of the machine read it."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(file, "w") as token:
        token.write(secrets.token_hex(32))


def _check_here() -> None:
    """Check the cluster that this process is connected to."""
    address = ray.get_runtime_context().gcs_address
    if ray_client.is_connected():  # through a proxy, behind which the head need not be reached from here
        asked = ray.remote(num_cpus=0)(_ask_as_a_stranger).remote(address)
        _check_answer(address, ray.get(asked, timeout=2 * PROBE_SECONDS))
    else:
        _check_answer(address, _ask_as_a_stranger(address))


def _ask_as_a_stranger(address: str) -> str:
    """Ask a cluster for its nodes, in a process without a token; return the error, or nothing if it has answered."""
    private = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in private}
    environment["RAY_AUTH_MODE"] = "disabled"
    command = [sys.executable, "-c", PROBE, address]
    try:
        stranger = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS:g} s"
    return stranger.stdout.strip() or (stranger.stderr.strip()[-500:] if stranger.returncode else "")


def _check_answer(address: str, answer: str) -> None:
    if not answer:
        raise ValueError(
            f"The Ray cluster at {address!r} requires no token, so anyone who can reach it can run code on its nodes and "
            f"on this machine: {HOW_TO_AUTHENTICATE}."
        )
    if not answer.startswith("AuthenticationError"):
        raise ValueError(f"It is not known whether the Ray cluster at {address!r} requires a token: {answer}")
