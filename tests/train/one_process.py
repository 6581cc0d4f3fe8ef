"""A run's processes where there is only this one."""

import torch

from sclds.losses.communicator import SingleProcess
from sclds.train.messages import Messages


class OneProcess(SingleProcess):
    """What `sclds.train.distributed.ProcessGroup` gives, without a process group."""

    device = torch.device("cpu")
    messages = Messages(device)

    def any(self, *flags):
        return list(flags)

    def start_gather_counts(self, counts):
        return lambda: self.gather_counts(counts)

    def gather_objects(self, value):
        return [value]

    def from_first(self, value):
        return value

    def barrier(self):
        pass
