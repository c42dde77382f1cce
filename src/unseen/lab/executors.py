"""Where blocks run: in this process, in worker processes, or on a Ray cluster. The same blocks, the same bits."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unseen.lab.engine import Block, Control, Progress, Stopped, run_blocks
from unseen.lab.errors import UserError
from unseen.lab.locate import describe, restore
from unseen.lab.store import Store, pack, unpack
from unseen.lab.study import Study

Results = Iterator[tuple[Block, dict[str, np.ndarray]]]

_inbox: Any = None  # set in worker processes: where they report progress
_stop: Any = None  # set in worker processes: an event that asks them to stop


def execute(
    study: Study,
    blocks: Sequence[Block],
    control: Control,
    *,
    checkpoints: Store,
    workers: int = 1,
    on: str | None = None,
) -> Results:
    """Run blocks and yield each with its evidence, in the order in which they end.

    Args:
        checkpoints: where worker processes keep the state of what they have begun.
        workers: number of processes; 1 means this one.
        on: "ray" or "ray=ADDRESS" for a Ray cluster (a local one without an address).
    """
    if on is not None:
        name, _, address = on.partition("=")
        if name != "ray":
            raise UserError(f"on takes ray or ray=ADDRESS, got {on!r}.")
        return _on_ray(study, blocks, control, checkpoints, address or None)
    if workers < 1:
        raise UserError(f"workers takes a whole number from 1 on, got {workers}.")
    if workers == 1 or len(blocks) == 1:
        return run_blocks(study, blocks, control)
    return _in_processes(study, blocks, control, checkpoints, workers)


def pieces(blocks: Sequence[Block], count: int) -> list[list[Block]]:
    """Blocks dealt into units of work for `count` workers: host members one by one; compiled groups whole where
    there are enough of them, else in shares, since each share is compiled by itself."""
    from unseen.lab.engine import _groups

    groups = _groups(blocks)
    compiled = [group for group in groups if not group[0].host]
    shares = max(1, -(-count // max(1, len(compiled))))
    units = [share for group in compiled for i in range(shares) if (share := group[i::shares])]
    return units + [[block] for group in groups if group[0].host for block in group]


def _unit(study: Study, blocks: Sequence[Block], checkpoints: str | None, every: float) -> str:
    """A unit of work as text that another machine understands."""
    return json.dumps(
        {
            "study": describe(study),
            "blocks": [dataclasses.asdict(block) for block in blocks],
            "checkpoints": checkpoints,
            "every": every,
        }
    )


def work(unit: str) -> list[tuple[str, bytes]]:
    """Run one unit of work in this process; what workers of every kind call.

    Returns:
        For each block that ended: the block as JSON, and its packed arrays.

    Raises:
        Stopped: when the worker is asked to stop; checkpoints are written then.
    """
    task = json.loads(unit)
    study = restore(task["study"])
    blocks = [_block(b) for b in task["blocks"]]
    control = Control(every=task["every"])
    if task["checkpoints"]:
        control = checkpointed(Store(task["checkpoints"]), every=task["every"])
    if _inbox is not None:
        control.report = lambda progress: _inbox.put(dataclasses.asdict(progress))
    if _stop is not None:
        control.stop = _stop.is_set
    return [
        (json.dumps(dataclasses.asdict(block)), pack(arrays)) for block, arrays in run_blocks(study, blocks, control)
    ]


def _block(fields: dict[str, Any]) -> Block:
    members = tuple((int(seed), traced) for seed, traced in fields["members"])
    return Block(fields["part"], fields["static"], members, fields["size"], fields["host"])


def checkpointed(store: Store, every: float) -> Control:
    """A control that keeps checkpoints in a store; a damaged one is named and its block starts again."""

    def load(name: str) -> dict[str, np.ndarray] | None:
        return store.arrays_if_kept(f"{name}.checkpoint", "this block starts again")

    return Control(load=load, save=lambda name, arrays: store.write_arrays(f"{name}.checkpoint", arrays), every=every)


def _quiet_worker(inbox: Any, stop: Any) -> None:
    global _inbox, _stop
    _inbox, _stop = inbox, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and asks us to stop


def _in_processes(study: Study, blocks: Sequence[Block], control: Control, checkpoints: Store, workers: int) -> Results:
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

    context = multiprocessing.get_context("spawn")
    inbox, stop = context.Queue(), context.Event()
    units = pieces(blocks, workers)
    texts = [_unit(study, unit, checkpoints.url, control.every) for unit in units]
    old = os.environ.get("UNSEEN_DEVICES")
    os.environ["UNSEEN_DEVICES"] = "1"  # a process a core, so one JAX device a process
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            try:
                control.report(Progress(**inbox.get(timeout=0.2)))
            except (queue.Empty, EOFError, OSError):
                continue

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(min(workers, len(units)), context, _quiet_worker, (inbox, stop))
    stopped = False
    try:
        waiting = {pool.submit(work, text) for text in texts}
        while waiting:
            ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            if control.stop() and not stop.is_set():
                stop.set()
                for future in waiting:
                    future.cancel()
            for future in ended:
                if future.cancelled():
                    stopped = True
                    continue
                try:
                    found = future.result()
                except Stopped:
                    stopped = True
                    continue
                yield from ((_block(json.loads(text)), unpack(data)) for text, data in found)
        if stopped:
            raise Stopped
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        over.set()
        listener.join(timeout=1)
        if old is None:
            os.environ.pop("UNSEEN_DEVICES", None)
        else:
            os.environ["UNSEEN_DEVICES"] = old


def _on_ray(
    study: Study, blocks: Sequence[Block], control: Control, checkpoints: Store, address: str | None
) -> Results:
    try:
        import ray
    except ImportError as error:
        raise UserError("--on ray needs Ray: pip install 'unseen[ray]'.") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"on takes ray or ray=ADDRESS; no cluster answers at {address}: {reason}") from error
    try:
        count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        gpus = ray.cluster_resources().get("GPU", 0)
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=3)(work)
        waiting = {}
        for unit in pieces(blocks, count):
            pending = task.remote(_unit(study, unit, checkpoints.url, control.every))
            waiting[pending] = unit
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=0.5)
            if control.stop():
                for pending in waiting:
                    ray.cancel(pending, force=True)
                raise Stopped
            for pending in ended:
                unit = waiting.pop(pending)
                for text, data in ray.get(pending):
                    yield _block(json.loads(text)), unpack(data)
                for block in unit:
                    control.report(Progress(block.name, "ray", 0, len(block.members), phase="done"))
    finally:
        if ours:
            ray.shutdown()
