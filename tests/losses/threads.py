"""Ranks as threads of one process, for what processes say to one another."""

import threading

import torch


class Threads:
    """Ranks as threads of one process, which meet at a barrier."""

    def __init__(self, rank, world_size, shared):
        self.rank, self.world_size, self._shared = rank, world_size, shared

    def all_gather(self, tensor):
        slots, barrier = self._shared
        slots[self.rank] = tensor
        barrier.wait()
        gathered = torch.stack(slots)
        barrier.wait()
        return gathered

    def start_all_gather(self, tensor):
        gathered = self.all_gather(tensor)
        return lambda: gathered

    def all_reduce_sum(self, tensor):
        return self.all_gather(tensor).sum(0)

    def gather_counts(self, counts):
        return self.all_gather(torch.tensor(counts)).numpy()


def run_ranks(world_size, function):
    """Call `function(communicator)` on every rank at once and return the results."""
    shared = ([None] * world_size, threading.Barrier(world_size, timeout=30))
    results = [None] * world_size

    def work(rank):
        try:
            results[rank] = function(Threads(rank, world_size, shared))
        except BaseException:
            shared[1].abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,), name=f"rank-{rank}") for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(r is not None for r in results)
    return results
