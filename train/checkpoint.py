"""Checkpoint: all that a stopped training needs to go on as if nothing had happened; safetensors, no pickle.

One file, written to a temporary name and renamed after every epoch, so that a kill at any moment leaves either the old
or the new one. It names the run it belongs to and is refused by any other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.files import leftovers, write_bytes

from .errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a run folder.

    Attributes:
        folder: where it lies.
        identity: what it must have been made by: data, weights, options.
    """

    folder: Path
    identity: str

    @property
    def file(self) -> Path:
        """The one file."""
        return self.folder / "state.safetensors"

    def save(
        self, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]
    ) -> None:
        """Write it.

        Args:
            modules: name -> module, all of whose state is kept.
            optimizer: its tensors are kept; its learning rate is the schedule's.
            history: a row per epoch that is done.
        """
        from safetensors.torch import save

        tensors = {f"{name}.{key}": t for name, module in modules.items() for key, t in module.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": tensor for key, tensor in state.items()}
        meta = {"identity": self.identity, "history": json.dumps(history)}
        self.folder.mkdir(parents=True, exist_ok=True)
        # clones: the moving average starts as the network itself, and safetensors refuses shared memory
        write_bytes(self.file, save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, meta))

    def load(self, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        """Restore what `save` wrote, in place; return the history, empty where there is nothing to resume.

        Raises:
            DataError: it is another run's, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not self.file.is_file():
            return []
        damaged = DataError(f"{self.file}: not a checkpoint", got="a damaged file", todo="delete it to start anew")
        try:
            opened = safe_open(self.file, framework="pt")
        except SafetensorError:
            raise damaged from None
        with opened as stored:
            meta = stored.metadata() or {}
            if "identity" not in meta or "history" not in meta:
                raise damaged
            if meta["identity"] != self.identity:
                raise DataError(
                    f"{self.folder}: checkpoint of another run",
                    got="other data, weights or options",
                    todo="give another --out, or delete it",
                )
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        for name, module in modules.items():
            own = f"{name}."
            module.load_state_dict({k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)})
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        history: list[dict[str, Any]] = json.loads(meta["history"])
        return history

    def remove(self) -> None:
        """Delete it, and what a kill in the middle of writing may have left: the run is done."""
        for file in (self.file, *leftovers(self.file)):
            file.unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()
