"""Functions in several processes, forked from one that has only imported (a fork of one that computed can hang in MKL).

They find each other through gloo.
"""

import multiprocessing
import os
import socket
import traceback

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "spear_tts_pytorch.training.stages"]
)


def _child(rank, world, port, pipe, function, arguments):
    torch.set_num_threads(1)
    os.environ.update(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    if world > 1:
        own = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world)
        own.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        os.environ.update({key: str(value) for key, value in own.items()})
    try:
        pipe.send((True, function(*arguments)))
    except BaseException as error:
        pipe.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def run(world, function, *arguments, timeout=120):
    """What `function(*arguments)` returned, or how it failed (a str), by process; a list of (succeeded, value)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(world)]
    children = [
        CONTEXT.Process(target=_child, args=(rank, world, port, pipes[rank][1], function, arguments))
        for rank in range(world)
    ]
    for child, (_, writer) in zip(children, pipes, strict=True):
        child.start()
        writer.close()  # so that the child's end is the only one
    found = []
    try:
        for reader, _ in pipes:
            assert reader.poll(timeout), "a process hangs"
            try:
                found.append(reader.recv())
            except EOFError:
                found.append((False, "killed"))
        return found
    finally:
        for child in children:
            child.join(0 if len(found) < world else timeout)
            child.kill()


def results(world, function, *arguments):
    """The same where all processes must succeed: what they returned."""
    found = run(world, function, *arguments)
    for succeeded, value in found:
        assert succeeded, value
    return [value for _, value in found]


def killed_after(seconds, function, *arguments):
    """Kills a process that calls the function with signal 9; True if it had ended in time, well."""
    child = CONTEXT.Process(target=_alone, args=(function, arguments))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode == 0


def _alone(function, arguments):
    torch.set_num_threads(1)
    function(*arguments)
