"""What the packages below `fra` would tell their makers, switched off.

`fra/__init__.py` calls `switch_off` before anything else is imported: by the command line, by a script of one's own, by
every process that we start, and by Ray's workers on other machines. `tests/faults/test_privacy.py` watches that nothing
is asked for.
"""

import os
import sys
import warnings

SWITCHES = {
    # From 1.29 on onnxruntime looks up mobile.events.data.microsoft.com six seconds after its import, whether a session
    # was made or not, and leaves a device's identity and its events in ~/.cache/Microsoft. It reads this at import;
    # its own `disable_telemetry_events()` comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    # Ray reports every hour to usage-stats.ray.io what the cluster is and what runs on it; its daemons inherit this.
    "RAY_USAGE_STATS_ENABLED": "0",
    # huggingface_hub, which comes with timm, adds versions and a session's identity to what it is asked to download.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # What packages have agreed on among themselves; for those that a user's own script imports beside ours.
    "DO_NOT_TRACK": "1",
}
"""Environment variables, each at its strictest value: nothing that a user has set can be stricter."""


def switch_off() -> None:
    """Set SWITCHES, also over looser values; other settings of the user stay as they are.

    Warns when onnxruntime was imported before and is reporting already, which nothing can end.
    """
    off = os.environ.get("ORT_DISABLE_TELEMETRY", "").strip().lower() in ("1", "true", "yes", "on", "y")
    if "onnxruntime" in sys.modules and not off:
        warnings.warn(
            "onnxruntime was imported before fra and may report to Microsoft: import fra first, or set "
            "ORT_DISABLE_TELEMETRY=1",
            stacklevel=3,
        )
    os.environ.update(SWITCHES)
