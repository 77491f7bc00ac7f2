"""benchmarks: what an answer costs and is worth, measured so that it can be believed, and the tables of all pages.

``python -m benchmarks`` has the commands that need no data set; each writes a file of ``results`` and then the tables.
Those that need one are run by their module (``python -m benchmarks.scan``, say), and ``python -m benchmarks.tables``
only writes tables. ``test_latency.py`` holds the pytest-benchmark cases. Absolute times drift on shared machines:
nothing here fails because something was slow.
"""
