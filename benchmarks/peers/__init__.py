"""What a user could install instead, measured by the same protocols: `python -m benchmarks.peers.run --help`.

An extra for measuring, never a dependency of `fra`: see docs/results/peers.md for what to install.
"""
