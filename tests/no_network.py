"""A command in a network of its own, where every question for a name and every packet is recorded.

`watch` starts this file in a namespace that has nothing but the loopback device (Linux; util-linux and iproute2). There
it answers questions for names itself, always with UNUSED, and leads packets for whatever address back to the loopback
device, where it reads them. So what asks is seen to ask, and what would go on to send is seen to send.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

UNUSED = "192.0.2.7"  # an address that RFC 5737 keeps for documentation
CONTROL = "the-end-of.example"
OUTGOING = 4  # PACKET_OUTGOING
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}

Note = Callable[[str, str], None]


@dataclass(frozen=True)
class Watched:
    """What a command asked and sent, and how it ended."""

    questions: list[str]
    """Names that were looked up, each once, in their order."""
    packets: list[str]
    """`tcp 192.0.2.7:443` and the like: whom packets went to, besides this machine itself; each once."""
    status: int
    output: str
    """stdout and stderr."""


@cache
def permitted() -> tuple[str, ...]:
    """The command that makes a namespace here; empty when that is not allowed, or its programs are missing."""
    if not (shutil.which("unshare") and shutil.which("ip") and shutil.which("mount")):
        return ()
    for how in (("unshare", "--net", "--mount"), ("unshare", "--net", "--mount", "--user", "--map-root-user")):
        try:
            tried = [*how, "sh", "-c", "ip link set lo up && mount --bind /etc/hosts /etc/hosts"]
            if subprocess.run(tried, capture_output=True, timeout=20).returncode == 0:
                return how
        except (OSError, subprocess.TimeoutExpired):
            pass
    return ()


def watch(command: Sequence[str], folder: Path, *, environment: Mapping[str, str], seconds: float) -> Watched:
    """Run `command` in a network of its own; `folder` takes the records. AssertionError after `seconds`."""
    with open(folder / "output.txt", "w+") as output:
        process = subprocess.Popen(
            [*permitted(), sys.executable, __file__, str(folder), *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"after {seconds:.0f} s it had said: {(folder / 'output.txt').read_text()}") from None
        finally:
            with suppress(ProcessLookupError):  # what it left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seen = [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]
    questions = [what for kind, what in seen if kind == "question"]
    packets = [what for kind, what in seen if kind == "packet"]
    assert (CONTROL in questions, packets[-1:]) == (True, [f"tcp {UNUSED}:9"]), "the record misses the control"
    return Watched(
        questions=[name for name in dict.fromkeys(questions) if name != CONTROL],
        packets=list(dict.fromkeys(packets[:-1])),
        status=status,
        output=(folder / "output.txt").read_text(),
    )


# --- inside the namespace


def _main(folder: Path, command: Sequence[str]) -> int:
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")  # nobody else may answer
    for words in (
        "ip link set lo up",
        "ip route add local 0.0.0.0/0 dev lo",
        f"mount --bind {folder / 'resolv.conf'} /etc/resolv.conf",
        f"mount --bind {folder / 'nsswitch.conf'} /etc/nsswitch.conf",
        "ip -6 route add local ::/0 dev lo",
    ):
        subprocess.run(words.split(), check="-6" not in words, capture_output=True)  # some machines have no IPv6
    record = open(folder / "seen.jsonl", "a", buffering=1)  # noqa: SIM115 (until the process ends)

    def note(kind: str, what: str) -> None:
        record.write(json.dumps([kind, what]) + "\n")

    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # of every protocol
    packets.bind(("lo", 0))
    for work in (lambda: _answer_names(names, note), lambda: _read_packets(packets, note)):
        threading.Thread(target=work, daemon=True).start()
    status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    # A record that missed this would prove nothing; `watch` looks for it, and forgets it.
    with suppress(OSError):
        socket.create_connection((CONTROL, 9), timeout=2)
    time.sleep(0.3)  # what is on its way arrives
    return status


def _answer_names(names: socket.socket, note: Note) -> None:
    """RFC 1035: a header of twelve bytes, the name's parts after their lengths, two bytes of type (1 asks for IPv4)."""
    while True:
        query, asker = names.recvfrom(4096)
        at, parts = 12, []
        while query[at]:
            parts.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
            at += 1 + query[at]
        note("question", ".".join(parts))
        wants_ipv4 = query[at + 1 : at + 3] == b"\0\1"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(UNUSED) if wants_ipv4 else b""
        header = query[:2] + b"\x81\x80\0\1" + bytes([0, wants_ipv4]) + bytes(4)
        names.sendto(header + query[12 : at + 5] + answer, asker)


def _read_packets(packets: socket.socket, note: Note) -> None:
    """Those that are not for this machine; of TCP the first of a connection."""
    while True:
        packet, (_, kind, direction, *_) = packets.recvfrom(65535)
        if direction == OUTGOING:  # each is seen a second time as it comes in
            continue
        if kind == 0x0800 and packet[16] != 127:
            start, protocol, whom = 4 * (packet[0] & 15), packet[9], socket.inet_ntoa(packet[16:20])
        elif kind == 0x86DD and packet[24:40] != bytes(15) + b"\1":
            start, protocol, whom = 40, packet[6], f"[{socket.inet_ntop(socket.AF_INET6, packet[24:40])}]"
        else:
            continue
        what = packet[start:]
        if protocol == socket.IPPROTO_TCP and what[13] & 0x12 != 0x02:  # SYN without ACK opens a connection
            continue
        if protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6):  # here only what nobody listens to is told so
            continue
        port = int.from_bytes(what[2:4], "big")
        note("packet", f"{PROTOCOLS.get(protocol, protocol)} {whom}:{port}")


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))
