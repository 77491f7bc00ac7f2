"""Batch normalisation over all processes of a run, so that two processes compute what one would.

`torch.nn.SyncBatchNorm` does this on GPUs only; `CrossProcessBatchNorm` does it on CPUs, with two differentiable
all-reduces. `synchronise` puts the right one in place.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CrossProcessBatchNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose training statistics are those of the whole batch, over all processes.

    Every process must hold equally many pictures of equal size.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as its parent
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        kind, x = x.dtype, x.float()  # bf16 could neither be summed up over processes nor hold the sums
        mean = _mean_over_processes(x.mean((0, 2, 3)))
        centred = x - mean.view(1, -1, 1, 1)
        variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            n = x.numel() // x.shape[1] * dist.get_world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(kind)


def _mean_over_processes(x: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(x)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """Return `network` with every batch normalisation replaced by one over all processes; parameters are kept."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, module in network.named_children():
        if isinstance(module, nn.BatchNorm2d):
            wide = CrossProcessBatchNorm(module.num_features, module.eps, module.momentum)
            wide.load_state_dict(module.state_dict())
            setattr(network, name, wide)
        else:
            synchronise(module, device)
    return network
