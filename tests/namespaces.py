"""Several hosts on one machine: network namespaces with addresses of their own, joined by a bridge. Linux, root only."""

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

CLONE_NEWNET = 0x40000000
PORT = 29_400


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Host:
    """
    A host, known by the name of its namespace; travels to the process that shall run there.

    :param name: of the namespace
    :param switch: of the namespace that all cables lead to
    :param number: from 0
    """

    name: str
    switch: str
    number: int

    @property
    def address(self):
        return f"10.78.0.{self.number + 1}"

    @property
    def meeting_point(self):
        return f"tcp://10.78.0.1:{PORT}"

    def enter(self):
        """Move the calling thread, and the sockets and threads that it makes from now on, to this host."""
        with open(f"/var/run/netns/{self.name}") as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = "eth0"

    def plug(self, is_in):
        """Cut the cable, or mend it."""
        _run("ip", "-n", self.switch, "link", "set", f"port{self.number}", "up" if is_in else "down")

    def delay(self, milliseconds):
        """Let every packet that leaves this host wait; skips the test where the kernel cannot do that."""
        wait = ("netem", "delay", f"{milliseconds}ms")
        try:
            _run("ip", "netns", "exec", self.name, "tc", "qdisc", "add", "dev", "eth0", "root", *wait)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            pytest.skip(f"tc netem is not permitted here: {getattr(error, 'stderr', b'').decode().strip() or error}")


@contextmanager
def hosts(n):
    """Make hosts that see each other, and remove them afterwards; skips the test where that is not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command to make network namespaces with")
    switch = f"sb3nigt-{os.getpid()}"
    made = [Host(f"{switch}-{number}", switch, number) for number in range(n)]
    try:
        try:
            _run("ip", "netns", "add", switch)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
        try:
            _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"bridges are not permitted here: {error.stderr.decode().strip()}")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in made:
            port = f"port{host.number}"
            _run("ip", "netns", "add", host.name)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _run("ip", "-n", host.name, "link", "set", "lo", "up")
            _run("ip", "-n", host.name, "link", "set", "eth0", "up")
        yield made
    finally:
        for name in [*(host.name for host in made), switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)
