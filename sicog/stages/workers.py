"""Several processes of this machine take the shards of a stage, one after another."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from sicog.stages.launch import gpus
from sicog.stages.shard import ShardTask
from sicog.stages.threads import share_cores


def run_shards(task: ShardTask, numbers: range, workers: int) -> None:
    """One worker is this process, with what it has loaded; more are processes that take one shard after another."""
    if min(workers, len(numbers)) <= 1:
        for number in numbers:
            task(number)
        return
    # Not datatrove's local executor: it forks, which copies locks that this process's threads hold, and its pool waits
    # for ever for a worker that died, say for memory. Not fork, for the same reason.
    context, n_workers, available = get_context("spawn"), min(workers, len(numbers)), gpus()
    shares = context.Queue() if available else None
    if shares is not None:
        for number in range(n_workers):
            shares.put(available[number % len(available)])
    others = set(active_children())
    pool = ProcessPoolExecutor(n_workers, context, _start_worker, (task, shares, n_workers))
    try:
        for future in as_completed([pool.submit(_run_shard, number) for number in numbers]):
            future.result()
    except KeyboardInterrupt:  # now, not when each has finished its shard: what is in the journals is kept
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    except BrokenProcessPool:
        raise RuntimeError(
            f"{task.step}: a worker process died (memory? see the messages above). "
            "What is finished is kept: start again, with fewer workers if it was memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_task: ShardTask | None = None  # a worker process's own, sent once: it may hold much


def _start_worker(task: ShardTask, shares: Any, n_workers: int) -> None:
    global _task
    share_cores(n_workers)
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; this one is ended by its parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if shares is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = shares.get()  # a GPU of its own, before anything here asks for one


def _end_with_parent() -> None:
    """A parent that was killed could not end its workers, and a shard that is still written refuses the next start."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_shard(rank: int) -> None:
    assert _task is not None
    _task(rank)
