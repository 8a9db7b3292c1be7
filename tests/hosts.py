"""Machines in network namespaces of this one: each has its own addresses, and a cable that can be cut.

They are joined by a bridge in a namespace of its own, so that nothing of this machine's network is touched.
"""

import os
import subprocess

import pytest
from running import Starter


class Hosts:
    """`count` machines; skips the test where namespaces are not permitted."""

    def __init__(self, count: int) -> None:
        self._switch, self._names = f"fra{os.getpid()}s", [f"fra{os.getpid()}h{number}" for number in range(count)]
        self._starters: dict[int, Starter] = {}
        made = subprocess.run(["ip", "netns", "add", self._switch], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        _ip("-n", self._switch, "link", "add", "bridge", "up", "type", "bridge")
        for number, name in enumerate(self._names):
            _ip("netns", "add", name)
            cable = f"cable{number}"
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", cable, "netns", self._switch)
            _ip("-n", self._switch, "link", "set", cable, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")

    def address(self, number: int) -> str:
        return f"10.213.7.{number + 1}"

    def inside(self, number: int) -> list[str]:
        """Words before a command that run it on this machine."""
        return ["ip", "netns", "exec", self._names[number]]

    def starter(self, number: int) -> Starter:
        if number not in self._starters:
            self._starters[number] = Starter(*self.inside(number))
        return self._starters[number]

    def cut(self, number: int) -> None:
        """Nothing reaches the machine or leaves it any more, without a word to anybody."""
        _ip("-n", self._switch, "link", "set", f"cable{number}", "down")

    def mend(self, number: int) -> None:
        _ip("-n", self._switch, "link", "set", f"cable{number}", "up")

    def close(self) -> None:
        for starter in self._starters.values():
            starter.close()
        for name in (*self._names, self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
