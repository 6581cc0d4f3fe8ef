"""Messages from host to host: under way when they are started, there when they are waited for, and no device's."""

from types import SimpleNamespace

import pytest
import torch

from sclds.train import distributed
from sclds.train.distributed import ProcessGroup

WORLD = 3


@pytest.fixture
def started(monkeypatch):
    """Give a process of three and the messages that it has started; one is there when somebody waits for it."""
    messages = []

    def all_gather_into_tensor(gathered, own, group=None, async_op=False):
        assert async_op, "a message that is waited for at once holds the step up"
        gathered.fill_(-1)

        def arrive():
            gathered.copy_(torch.cat([own + 10 * rank for rank in range(WORLD)]))

        messages.append(SimpleNamespace(group=group, device=own.device.type, waited=0, own=own))

        def wait():
            messages[-1].waited += 1
            arrive()

        return SimpleNamespace(wait=wait)

    monkeypatch.setattr(distributed.dist, "all_gather_into_tensor", all_gather_into_tensor)
    group = ProcessGroup.__new__(ProcessGroup)
    group.world_size, group._hosts, group.device = WORLD, "hosts", torch.device("meta")
    return group, messages


def test_counts_are_on_their_way_while_the_host_goes_on(started):
    group, messages = started
    wait = group.start_gather_counts([4, 5])
    [message] = messages
    assert message.waited == 0
    assert wait().tolist() == [[4, 5], [14, 15], [24, 25]], "in rank order"
    assert message.waited == 1


def test_counts_go_from_host_to_host(started):
    """Through the device they would wait for all that is queued there."""
    group, messages = started
    group.gather_counts([1])
    assert [(message.group, message.device) for message in messages] == [("hosts", "cpu")]
