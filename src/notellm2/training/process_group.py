"""The processes of one training: which of them this one is, and what they exchange.

Every process holds the whole network and embeds its share of each batch. What they exchange a step is the embeddings
(summed into one matrix, of which each filled its rows) and the gradients of the weights, so all of them compute the
same loss over the same negatives and take the same step: data parallelism whose result is that of one process.
The only module that imports accelerate, which finds the process group that ``accelerate launch`` set up: several
processes on one machine, several machines, gloo on CPUs, NCCL on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_CPU = torch.device("cpu")
_BUCKET_BYTES = 64 << 20
"""Tensors are summed in flat copies of about this size: few messages, little memory."""


@dataclass(frozen=True)
class Team:
    """The processes of one training, seen from one of them.

    Attributes:
        size: number of processes.
        rank: number of this one; 0 leads: it alone writes files.
        device: where this one computes.
    """

    size: int = 1
    rank: int = 0
    device: torch.device = _CPU

    @classmethod
    def alone(cls) -> Team:
        """Return a team of this process alone, on the GPU if there is one."""
        return cls(device=torch.device("cuda") if torch.cuda.is_available() else _CPU)

    @classmethod
    def joined(cls) -> Team:
        """Join the processes that ``accelerate launch`` started with this one."""
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.num_processes, state.process_index, state.device)

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; every one gives the same shapes in the same order."""
        if self.size == 1:
            return
        from accelerate.utils import reduce

        with torch.no_grad():
            for bucket in _buckets(tensors):
                flat = reduce(torch.cat([tensor.reshape(-1) for tensor in bucket]), "sum")
                for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def lend_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the leader's."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                if not self.leads:
                    tensor.zero_()
        self.sum_(tensors)

    def gather(self, tensor: Tensor) -> Tensor:
        """Collect the tensor of every process, [size, ...]; equal shapes."""
        if self.size == 1:
            return tensor[None]
        from accelerate.utils import gather

        stacked: Tensor = gather(tensor.to(self.device)[None]).cpu()
        return stacked

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


ALONE = Team()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, cut where the type changes or the size is reached."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size >= _BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket
