"""Programs as people without fra run them: in processes of their own, in which `fra` cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

DRIVER = """
import runpy, sys
sys.modules["fra"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_fra(program: Path, *words: object, folder: Path) -> str:
    """What a Python file prints when it runs in a folder; it must end well."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", DRIVER, str(program.resolve()), *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
