"""How fast `fra` is, always beside something else in the same process: `python -m benchmarks`."""
