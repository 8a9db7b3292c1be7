"""`python -m benchmarks.check [SUITE ...]`: measure again and fail where a ratio lost more than 15 % (not a test).

Machines are noisy, so it is the upper quartile of the new ratio that must not fall so far below the old median.
"""

import json
import sys

from benchmarks.__main__ import RESULTS
from benchmarks.paired import Row
from benchmarks.suites import SUITES, timed

ALLOWED_LOSS = 0.15


def lost(before: Row, now: Row) -> float:
    """Share of the ratio that is surely gone; of memory, where less is better, the share that was added."""
    return now.low / before.ratio - 1 if before.unit == "MiB" else 1 - now.high / before.ratio


def losses(before: list[Row], now: list[Row]) -> list[str]:
    """One line for each comparison that lost too much."""
    known = {(row.suite, row.setting, row.candidate, row.against): row for row in before}
    lines = []
    for row in now:
        old = known.get((row.suite, row.setting, row.candidate, row.against))
        if old is not None and lost(old, row) > ALLOWED_LOSS:
            lines.append(
                f"{row.suite}, {row.setting}: {row.candidate} is {row.ratio:.2f} of {row.against}, was {old.ratio:.2f}"
            )
    return lines


def main() -> int:
    names = sys.argv[1:] or ["step", "views", "memory"]
    unknown = set(names) - set(SUITES)
    if unknown:
        print(f"no suite is called {', '.join(unknown)}: there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    before = [Row(**row) for row in json.loads(RESULTS.read_text())["rows"]]
    found = losses(before, [row for name in names for row in timed(name)])
    print("\n".join(found) or "nothing lost more than 15 %")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
