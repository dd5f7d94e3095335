"""``make bench-memory``: memory estimators against what llama.cpp would allocate. docs/memory-bench.md shows the
result.

It lies beside the tests, for it holds the account to its bounds and comes with the data for that; nothing of it is
published.
"""
