"""Rig tables: the figures of the pages on ``serve``, ``watch`` and ``archive``, from ``results`` and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.layout import markdown

RESULTS = Path(__file__).parent / "results"

CLIENTS = {
    "one_client": "1 client",
    "clients_that_wait_as_told": "{} that wait as a 429 says",
    "clients_that_do_not_wait": "{} that do not wait",
}
"""Key of ``serve.json`` -> what these clients do."""


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def serve_table() -> str:
    """Answers, refusals and latencies of the service under load, and what it takes."""
    found = _read("serve.json")
    rows = []
    for key, title in CLIENTS.items():
        one = found[key]
        counts = [str(one["statuses"].get(status, 0)) for status in ("200", "429", "413")]
        times = [f"{one[f'{q}_ms']:.0f} ms" for q in ("p50", "p90", "p99")]
        rows.append([title.format(found["clients"]), *counts, *times, f"{one['of_bare_classifier']:.2f}"])
    head = (
        f"{found['machine']['cores']} cores of {found['machine']['cpu']}, load {found['load_before']:.1f} before",
        "answered (200)",
        "refused (429)",
        "too large (413)",
        "p50",
        "p90",
        "p99 of the answered",
        "of the bare classifier, 1 thread",
    )
    memory = found["service_rss_mb"]
    return (
        f"{markdown(head, rows)}\n\n"
        f"The process takes {memory['after_one_client']:.0f} MB with one client and up to {memory['peak']:.0f} MB with "
        f"{found['clients']}, most of it pictures in work."
    )


def killed_table() -> str:
    """What became of each file while the process was killed."""
    found = _read("watch.json")["killed"]
    rows = [
        ["results", f"{found['results']:,}"],
        ["lost, twice", f"{found['lost']}, {found['twice']}"],
        ["bad, of files of which all arrived in the end", str(found["errors"])],
        ["renamed after they were answered, known again", str(found["renamed_after_they_were_answered"])],
        ["sequences without gaps", "yes" if found["sequences_without_gaps"] else "NO"],
        ["results the command got; got again", f"{found['delivered']:,}; {found['delivered_again']}"],
    ]
    return markdown((f"{found['files']:,} files, {found['kills']} kills", ""), rows)


def memory_table() -> str:
    """How the process' memory grew, and how fast it was."""
    found = _read("watch.json")["steady"]
    mib = {key: found[f"rss_{key}_kib"] / 1024 for key in ("start", "end", "max")}
    rows = [
        ["resident set, MiB", *(f"{mib[key]:.2f}" for key in ("start", "end", "max"))],
        ["growth, MiB", "", f"{found['rss_growth_mib']:+.2f}", f"{found['rss_largest_growth_mib']:+.2f}"],
    ]
    head = (
        f"{found['files']:,} files, one process",
        f"start (after {found['first_reading_after_results']})",
        "end",
        "largest",
    )
    before, after = found["bare_classify_files_per_s_before_and_after"]
    return (
        f"{markdown(head, rows)}\n\n"
        f"The journal takes {found['journal_bytes_per_file'] / 1000:.1f} KB per file. The process answered "
        f"{found['files_per_s']:.0f} files a second where `classify` alone, in a loop in one process right before and "
        f"after, did {before:.0f} and {after:.0f}."
    )


def archive_table() -> str:
    """How an archive scales by workers and nodes, what they take, and what a long list takes."""
    found = _read("archive.json")
    rows = []
    for name, one in found["ways"].items():
        low, high = one["running_per_s_least_most"]
        rows.append(
            [
                name,
                f"{one['pictures_per_s']:.0f}",
                f"{one['running_per_s']:.0f} ({low:.0f} to {high:.0f})",
                "{:.2f} ({:.2f} to {:.2f})".format(one["of_classify"], *one["of_classify_least_most"]),
                f"{one['worker_peak_rss_mib']:.0f}" if "worker_peak_rss_mib" in one else "",
                f"{one['lead_peak_rss_mib']:.0f}" if "lead_peak_rss_mib" in one else "",
            ]
        )
    head = (
        f"{found['machine']['cores']} cores of {found['machine']['cpu']}, load {found['load_before']:.1f} before",
        "pictures/s, start to end",
        "once running (least to most)",
        "of `classify` in the same round",
        "peak RSS of a worker, MiB",
        "of the command, MiB",
    )
    listing, size = found["list"], found["bytes_per_row"]
    plan_s, growth, read_ms = listing["plan_s"], listing["rss_growth_mib"], 1000 * listing["read_s"]
    return (
        f"{markdown(head, rows)}\n\n"
        f"{found['pictures']:,} cells of {found['picture_px']} x {found['picture_px']} px, {found['distinct']} of them "
        f"different, in shards of {found['shard_pictures']}; medians of {found['rounds']} rounds. A row takes "
        f"{size['all']:.0f} bytes in these parts, of which the heatmap {size['heatmap']:.0f}.\n\n"
        f"A list of {listing['pictures']:,} names ({listing['list_mb']:.0f} MB) is planned in {plan_s:.1f} s "
        f"and read again in {read_ms:.0f} ms; the process' peak memory is {growth:.1f} MiB above that of a "
        "list of 1,000."
    )


SERVE = {"serve": serve_table}
WATCH = {"watch-killed": killed_table, "watch-memory": memory_table}
ARCHIVE = {"archive": archive_table}
"""Place in the page -> what writes it."""
