"""The service: bundles behind an HTTP API with one page, for one device and the people around it.

What comes in are requests; what goes out are the same answers that the command line gives. One process, a bounded
number of answers at a time, no outside resource, nothing but its history is written. Needs the extra ``serve``; only
``commands.serve`` imports it.
"""
