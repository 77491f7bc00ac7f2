"""``archive --ray`` on a cluster of two nodes on this machine: both work as workers alone do, and one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_maker import smears

pq = pytest.importorskip("pyarrow.parquet")
ray = pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]
PICTURES = 64
TIMES = 2
BOUND_S = 240.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, for as long as the module's tests last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))  # as if this checkout were installed on every node
        from ray.cluster_utils import Cluster

        store = 80 * 1024 * 1024
        found = Cluster(True, head_node_args={"num_cpus": 1, "object_store_memory": store, "include_dashboard": False})
        found.add_node(num_cpus=1, object_store_memory=store)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `PICTURES` pictures, of which one is bad."""
    return smears(tmp_path_factory.mktemp("pictures"), PICTURES)


def command(bundle: Path, out: Path, *more: object) -> list[str]:
    """Return the command that makes an archive."""
    options = ["--model", bundle, "--out", out, "--shard", 2, "--json", *more]
    return [sys.executable, "-m", "edge_runtime", "archive", *map(str, options)]


def table(out: Path) -> Any:
    """All rows of an archive but for their times, in the order of the list."""
    return pq.read_table(sorted(out.glob("part-*.parquet"))).drop_columns(["total_ms"])


def test_two_nodes_do_what_workers_alone_do(cluster: Any, pictures: Path, tmp_path: Path, valid_bundle: Path) -> None:
    alone = subprocess.run(
        command(valid_bundle, tmp_path / "alone", pictures), cwd=ROOT, capture_output=True, check=False
    )
    assert alone.returncode == 1  # of the bad picture
    out = tmp_path / "out"
    run = command(valid_bundle, out, "--ray", cluster.address, pictures)
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 1 and done.stderr == ""
    facts = json.loads(done.stdout)
    assert facts["pictures"] == facts["rows"] == PICTURES and facts["errors"] == 1
    nodes = facts["now"]["nodes"]
    assert len(nodes) == 2 and sum(nodes.values()) == PICTURES and min(nodes.values()) >= 2
    written = [pq.read_schema(part).metadata[b"leukoscope.node"].decode() for part in out.glob("part-*.parquet")]
    assert {node: 2 * written.count(node) for node in nodes} == nodes
    assert set(nodes) == {node["NodeID"] for node in found_nodes(cluster)}
    assert table(out).equals(table(tmp_path / "alone")), "bit for bit"


def found_nodes(cluster: Any) -> list[dict[str, Any]]:
    """What Ray says of the cluster's nodes."""
    ray.init(cluster.address, log_to_driver=False)
    try:
        return list(ray.nodes())
    finally:
        ray.shutdown()


def test_asked_to_stop_it_goes_on_without_the_cluster(
    cluster: Any, pictures: Path, tmp_path: Path, valid_bundle: Path
) -> None:
    out, names = tmp_path / "out", tmp_path / "list.txt"
    names.write_text("".join(f"{path}\n" for path in sorted(pictures.iterdir())) * 4, encoding="utf-8")
    run = command(valid_bundle, out, "--ray", cluster.address, "--list", names)
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bound = time.monotonic() + BOUND_S
    while not list(out.glob("part-*.parquet")):
        assert time.monotonic() < bound and process.poll() is None
        time.sleep(0.02)
    process.terminate()
    text, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, text) == (143, "") and err.startswith("note: stopped with ") and err.count("\n") == 1
    rest = subprocess.run(command(valid_bundle, out), cwd=ROOT, capture_output=True, text=True, check=False)
    facts = json.loads(rest.stdout)
    assert rest.returncode == 1 and facts["rows"] == 4 * PICTURES and 0 < facts["now"]["pictures"] < 4 * PICTURES
    assert table(out).column("row").to_pylist() == list(range(4 * PICTURES))


def test_a_node_that_dies_costs_no_picture(cluster: Any, pictures: Path, tmp_path: Path, valid_bundle: Path) -> None:
    out, names = tmp_path / "out", tmp_path / "list.txt"
    names.write_text("".join(f"{path}\n" for path in sorted(pictures.iterdir())) * TIMES, encoding="utf-8")
    run = command(valid_bundle, out, "--ray", cluster.address, "--list", names)
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bound = time.monotonic() + BOUND_S
    (lost,) = cluster.worker_nodes
    while not any(node(part) == lost.node_id for part in out.glob("part-*.parquet")):
        assert time.monotonic() < bound and process.poll() is None
        time.sleep(0.02)
    cluster.remove_node(lost, allow_graceful=False)
    text, err = process.communicate(timeout=BOUND_S)
    facts = json.loads(text)
    assert process.returncode == 1 and facts["pictures"] == facts["rows"] == TIMES * PICTURES and err == ""
    assert table(out).column("row").to_pylist() == list(range(TIMES * PICTURES))
    assert not list(out.glob(".*.part"))


def node(part: Path) -> str:
    """Return the node that wrote a part."""
    return str(pq.read_schema(part).metadata[b"leukoscope.node"].decode())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense:nonsense"])
def test_no_cluster_is_one_line(pictures: Path, tmp_path: Path, valid_bundle: Path, address: str) -> None:
    run = command(valid_bundle, tmp_path / "out", "--ray", address, pictures)
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and f"no Ray cluster at {address}" in done.stderr


FAKE_RAY = """
import os
def init(address, **how):
    print(address, how["include_dashboard"], *(os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")))
def cluster_resources():
    return {"CPU": 2.0}
def shutdown():
    print("shut down", os.environ["RAY_USAGE_STATS_ENABLED"])
"""


def test_a_cluster_of_its_own_obeys_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text(FAKE_RAY, encoding="utf-8")
    (tmp_path / "ray" / "data.py").write_text("", encoding="utf-8")
    code = "from edge_runtime.archive.cluster import LOCAL, joined\nwith joined(LOCAL, 3) as workers: print(workers)"
    usual = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**usual, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    tokens = set()
    for _ in range(2):
        run = [sys.executable, "-c", code]
        said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        *how, token = said[0].split()
        assert (how, said[1:]) == (["local", "False", "token"], ["2", "shut down 0"]) and len(token) == 64
        tokens.add(token)
    assert len(tokens) == 2
