"""benchmarks: what an answer costs, measured so that it can be believed, and the README's tables.

``python -m benchmarks`` measures ratios (interleaved in one process, order shuffled) and the cost of a whole command
(fresh processes), and writes ``results/cost.json``; ``python -m benchmarks.tables`` writes the README's tables from it
and from the shipped manifests. ``test_latency.py`` holds the pytest-benchmark cases. Absolute times drift on shared
machines: nothing here fails because something was slow.
"""
