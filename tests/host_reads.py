"""Counts how often the host waits for a device, without a device: tensors on "meta" have a device and a shape but no values.

A program that reads a value of such a tensor gets `ANSWER` instead, and the line that read it is noted. Operations whose
result has a shape that depends on values (`nonzero`, a boolean mask as an index) raise an error of torch: on a real device
they wait, too. So does an operation on tensors of two devices.
"""

import traceback
from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ANSWER = 1.0
SCALAR, COPY = torch.ops.aten._local_scalar_dense.default, torch.ops.aten._to_copy.default


class _Reads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.places = Counter()

    def _note(self):
        own = [frame for frame in traceback.extract_stack() if "/spear_tts_pytorch/" in frame.filename]
        self.places[f"{own[-1].filename.rpartition('/')[2]}: {own[-1].line}" if own else "elsewhere"] += 1

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        on_device = bool(args) and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta"
        if on_device and operation is SCALAR:
            self._note()
            return torch.tensor(ANSWER).to(args[0].dtype).item()
        if on_device and operation is COPY and torch.device(kwargs.get("device") or "meta").type == "cpu":
            self._note()
            return torch.full(args[0].shape, ANSWER, dtype=kwargs.get("dtype") or args[0].dtype, device="cpu")
        return operation(*args, **kwargs)


@contextmanager
def host_reads():
    """Yields a counter of reads by place in the package, which fills up inside."""
    with _Reads() as reads:
        yield reads.places
