"""A cluster: shards spread over the nodes that Ray knows, by Ray Data. Jobs in, what became of each shard out.

Each actor keeps a crew of one worker, the same as on a machine alone, so a picture that kills its process costs itself
here, too; a node that dies costs the shards it had in hand, which Ray gives to others. All nodes must see the archive's
folder and the pictures under the same paths, and have the same leukoscope and bundle. Nothing is sent to Ray's authors.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, LeukoscopeError, OutputError, UsageError
from .crew import Crew
from .plan import Job, Plan, parse_plan
from .shard import Done

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, for the time being."""

START = "start one: ray start --head"

BLOCKS = 2000
"""Jobs are dealt to Ray in so many portions at most."""

_STORE_BYTES = 100 * 1024 * 1024
"""Of Ray's object store, where we start it: jobs and results are small, and pictures never pass through it."""


class NodeCrew:
    """Ray's actor: does the shards that come to it."""

    def __init__(self, out: str, plan: str, patience_s: float) -> None:
        import ray

        self._plan = parse_plan(plan, Path(out))
        self._node = ray.get_runtime_context().get_node_id()
        self._crew = Crew(self._plan, 1, patience_s, self._node)

    def __call__(self, batch: dict[str, npt.NDArray[np.object_]]) -> dict[str, list[str]]:
        """Do a batch's jobs; a failure is a result, too: exceptions would make Ray try again what cannot go well."""
        return {"said": [self._do(Job.from_json(str(text))) for text in batch["job"]]}

    def _do(self, job: Job) -> str:
        deaths = self._crew.deaths
        try:
            (done,) = (found for found in self._crew.run(iter([job])) if found is not None)
        except LeukoscopeError as error:
            return json.dumps({"failed": f"node {self._node[:8]}: {error}"})
        return json.dumps({"done": done.to_dict(), "deaths": self._crew.deaths - deaths})


_CONNECT_S = 10.0


@contextmanager
def joined(address: str, workers: int | None) -> Iterator[int]:
    """Join a cluster, or start one on this machine; leave it at the end.

    Args:
        address: Ray's, such as "auto" or "10.0.0.1:6379"; or `LOCAL`.
        workers: processes at a time; default: the cluster's CPUs.

    Yields:
        How many workers there will be.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """
    _require_listener(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its core writes to standard error past all settings
    if address == LOCAL and "ray" not in sys.modules:  # read then, too
        # Its processes listen to the network, and do what they are told: by who has this, which is nobody else.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it prints a warning of its own future
    try:
        import ray.data
    except ImportError as error:
        raise UsageError("Ray is not installed", got=error, todo='pip install "leukoscope[ray]"') from None
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address == LOCAL:
        quiet |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(address, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {address}", got=error, todo=START) from None
    try:
        cluster: Any = ray  # its functions have no types
        cpus = int(cluster.cluster_resources().get("CPU", 0))
        yield min(workers, cpus) if workers else max(1, cpus)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Try the address: Ray itself would try for many minutes.

    Raises:
        UsageError: nobody listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # a word that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"no Ray cluster at {address}", got=error, todo=START) from None


class Cluster:
    """Does jobs on a cluster that was `joined`; used like a `Crew`."""

    def __init__(self, plan: Plan, workers: int, patience_s: float) -> None:
        self._plan, self._workers, self._patience_s = plan, workers, patience_s
        self.deaths = 0
        """Of workers, so far."""
        self.in_hand = 0
        """Nothing is known of pictures in unfinished shards."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Done | None]:
        """Do jobs; see `Crew.run`.

        Raises:
            OutputError: a part cannot be written, or the bundle or program of a node is another one.
            EngineError: Ray gave up.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        items = [{"job": job.to_json()} for job in jobs]
        brief = Plan(self._plan.out, self._plan.settings, self._plan.list_sha256, self._plan.pictures, ())
        dataset = ray.data.from_items(items, override_num_blocks=min(BLOCKS, len(items))).map_batches(
            NodeCrew,
            fn_constructor_args=(str(self._plan.out), brief.to_json(), self._patience_s),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            num_cpus=1,
        )
        try:
            for row in dataset.iter_rows():
                said = json.loads(row["said"])
                if "failed" in said:
                    raise OutputError(said["failed"])
                self.deaths += said["deaths"]
                yield Done(**said["done"])
        except ray.exceptions.RayError as error:
            raise EngineError("Ray gave up", got=str(error).strip().splitlines()[-1]) from None

    def close(self) -> None:
        """Do nothing: who joined the cluster leaves it, and its actors end with that."""
