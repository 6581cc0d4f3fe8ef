import os
import time

from sclds.train.extension_lock import STALE_SECONDS, remove_stale_locks


def test_only_old_locks_of_deepspeed_are_removed(tmp_path):
    old, young, foreign = (tmp_path / f"py311_cpu/{name}/lock" for name in ("deepspeed_a", "deepspeed_b", "mine"))
    for lock in (old, young, foreign):
        lock.parent.mkdir(parents=True)
        lock.touch()
    for lock in (old, foreign):
        os.utime(lock, (time.time() - STALE_SECONDS - 1,) * 2)
    assert remove_stale_locks(tmp_path) == [old]
    assert [lock.exists() for lock in (old, young, foreign)] == [False, True, True]
