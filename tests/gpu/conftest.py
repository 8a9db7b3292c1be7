"""Deterministic products of matrices need this before CUDA begins."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
