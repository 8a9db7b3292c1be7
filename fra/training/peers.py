"""Processes that train together: started here, or by torchrun and the like, and missed as soon as one is lost."""

import atexit
import hmac
import logging
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from fra.system.processes import Lost, commands, end_children
from fra.system.stopping import give_up

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BEAT = 2.0
"""Seconds between two signs of life (ours)."""
MISSED = 15
"""Beats without one after which a process counts as lost (ours: half a minute)."""
MEETING = 60.0
"""Seconds that processes may take to meet once all have been started (ours)."""
ALIVE, GOODBYE = b".", b"!"
SIOCGIFADDR = 0x8915
"""Linux's request for the address of an interface."""
PARENT = "FRA_PARENT"
SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "[Gloo]", "NCCL")
"""What torch says when another process is gone."""

_watch: "_Watch | None" = None


def launch(fabric: "Fabric") -> None:
    """Start the other processes of this machine, unless somebody else has, and meet all of them.

    From here to the end of `with_peers` the loss of one ends the others. They are started as Fabric starts them, by the
    same command with another LOCAL_RANK; but Fabric's own observer would kill this process with the first that ends.
    """
    global _watch
    environment = getattr(fabric.strategy, "cluster_environment", None)
    if environment is None:
        fabric.launch()
        return
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets, also with --quiet
    parallel: Any = fabric.strategy
    world = parallel.num_processes * parallel.num_nodes
    if parallel.num_nodes > 1 and (name := _interface_to(environment.main_address)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    children = []
    if not environment.creates_processes_externally:
        children = _start_children(environment, parallel.num_processes, world)
    _watch = _Watch(world, children)
    fabric.launch()
    _watch.meet(fabric, environment.main_address)


def _interface_to(address: str) -> str | None:
    """The network interface by which this machine reaches `address`; None where that cannot be found out.

    gloo would take the one that the machine's own name belongs to, which in many distributions is the loopback.
    """
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            mine = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # one without an address
                    asked = struct.pack("256s", name.encode()[:15])
                    if fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)[20:24] == mine:
                        return name
    except (ImportError, OSError):
        return None
    return None


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that train together, as its environment says."""
    places = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in places)


@contextmanager
def with_peers() -> Iterator[None]:
    """The block, or decorated function, in which `launch` is called: a lost process ends it with Lost."""
    global _watch
    well = False
    try:
        yield
        well = True
    except RuntimeError as error:
        lost = as_lost(error)
        if lost is None:
            raise
        raise lost from error
    finally:
        if _watch is not None:
            _watch.end(well=well)
        _watch = None


def as_lost(error: RuntimeError) -> Lost | None:
    """An error of torch as what it means: that another process is gone; None when it means something else."""
    if isinstance(error, Lost):
        return error
    if _watch is None or not any(sign in str(error) for sign in SIGNS):
        return None
    for _ in range(20):  # a killed child is seen a moment later than its connection
        if reason := _watch.lost_child() or _watch.lost_parent():
            return Lost(reason)
        time.sleep(0.1)
    return Lost(
        f"another of the {_watch.world} processes has ended: its own output says why, unless it was killed "
        "(out of memory?); continue with --resume"
    )


def _start_children(environment: Any, count: int, world: int) -> list["subprocess.Popen[bytes]"]:
    """The processes 1, 2, ... of this machine; this one becomes number 0."""
    import __main__

    spec = getattr(__main__, "__spec__", None)
    program = ["-m", spec.name] if spec is not None else [os.path.abspath(sys.argv[0])]
    os.environ.update(
        MASTER_ADDR=environment.main_address,
        MASTER_PORT=str(environment.main_port),
        NODE_RANK=str(environment.node_rank()),
        WORLD_SIZE=str(world),
        LOCAL_RANK="0",
    )
    _end_children_at_exit()
    children = []
    for rank in range(1, count):
        own = {"LOCAL_RANK": str(rank), PARENT: str(os.getpid())}
        children.append(subprocess.Popen([sys.executable, *program, *sys.argv[1:]], env=os.environ | own))
    commands.extend(children)
    return children


@cache
def _end_children_at_exit() -> None:
    """Once, however many runs there are in this process."""
    atexit.register(end_children)


class _Watch(threading.Thread):
    """Gives up when the parent, a child, or another process anywhere is lost.

    Each process holds a connection to process 0, on which both leave a byte at every beat.
    """

    def __init__(self, world: int, children: list["subprocess.Popen[bytes]"]) -> None:
        super().__init__(name="fra-peers", daemon=True)
        self.world, self._children = world, children
        self._parent = int(os.environ.get(PARENT, 0))
        self._others: dict[int, socket.socket] = {}
        """By rank."""
        self._missed: dict[int, int] = {}
        self._done: bytes | None = None
        self.start()

    def meet(self, fabric: "Fabric", address: str) -> None:
        """Connect the processes. All call it, once they can talk to each other."""
        server = socket.create_server(("", 0)) if fabric.global_rank == 0 else None
        port, secret = fabric.broadcast((server.getsockname()[1], secrets.token_bytes(16)) if server else (0, b""))
        if server is None:
            to_first = socket.create_connection((address, port), timeout=MEETING)
            to_first.sendall(secret + fabric.global_rank.to_bytes(4, "big"))
            self._add(0, to_first)
            return
        with server:
            server.settimeout(MEETING)
            while len(self._others) < self.world - 1:
                caller, _ = server.accept()
                caller.settimeout(MEETING)
                said = caller.recv(len(secret) + 4, socket.MSG_WAITALL)
                if hmac.compare_digest(said[: len(secret)], secret):
                    self._add(int.from_bytes(said[len(secret) :], "big"), caller)

    def _add(self, rank: int, other: socket.socket) -> None:
        other.setblocking(False)
        self._missed[rank] = 0
        self._others[rank] = other

    def end(self, *, well: bool) -> None:
        """Stop watching; the others are told when all is well, and take it for a loss otherwise."""
        self._done = GOODBYE if well else b""
        if well:  # children may have other things to do
            for child in self._children:
                if child in commands:
                    commands.remove(child)

    def run(self) -> None:
        while self._done is None:
            if reason := self.lost_child() or self.lost_parent() or self._lost_other():
                give_up(reason)
            time.sleep(BEAT)
        for other in self._others.values():
            with suppress(OSError):
                other.sendall(self._done)
            other.close()

    def lost_child(self) -> str:
        for rank, child in enumerate(self._children, 1):
            code = child.poll()
            if code:
                how = f"was killed by signal {-code}" if code < 0 else f"has ended with status {code}"
                why = " (out of memory?)" if code == -signal.SIGKILL else ""
                return f"process {rank} of {self.world} {how}{why}; continue with --resume"
        return ""

    def lost_parent(self) -> str:
        return self._ended(0) if self._parent and os.getppid() != self._parent else ""

    def _lost_other(self) -> str:
        """Leave a sign of life and look for those of others. Beats are counted, not seconds: all may be suspended."""
        for rank, other in list(self._others.items()):
            try:
                with suppress(BlockingIOError):
                    other.send(ALIVE)
                said = other.recv(4096)
            except BlockingIOError:
                self._missed[rank] += 1
                if self._missed[rank] < MISSED:
                    continue
                return (
                    f"process {rank} of {self.world} has not responded for {MISSED * BEAT:.0f} seconds: it is "
                    "suspended, or its machine is down; continue with --resume"
                )
            except OSError:
                said = b""
            if not said:
                return self._ended(rank)
            self._missed[rank] = 0
            if said.endswith(GOODBYE):
                self._others.pop(rank).close()
        return ""

    def _ended(self, rank: int) -> str:
        return (
            f"process {rank} of {self.world} has ended: its own output says why, unless it was killed "
            "(out of memory?); continue with --resume"
        )
