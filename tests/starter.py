"""Started by running.py: imports what commands need, then forks a process for each that it is asked for."""

import json
import os
import signal
import sys
from typing import Any


def serve() -> bool:
    """Answer requests, a line each. True in a process that is to become a command."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            pid, status = os.waitpid(asked["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                become(asked)
                return True
        print(json.dumps(answer), flush=True)
    return False


def become(asked: dict[str, Any]) -> None:
    os.setsid()
    # A shell starts what runs behind it deaf for Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for mine, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(mine, standard)
    os.environ.update(asked["environment"])
    sys.argv = [os.path.join(os.path.dirname(__file__), "faulty.py"), *asked["words"]]


if __name__ == "__main__":
    import lightning_fabric  # noqa: F401

    if serve():
        import faulty

        sys.exit(faulty.main())
