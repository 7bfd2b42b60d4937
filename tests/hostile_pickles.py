"""Hostile pickles, arrays and files of tensors, of at most 1 MB: small programs that would build much, and false sizes."""

import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
import zlib

import torch
from small import make_model

ZEROS = b"\0" * 2**24
CALL = {
    "OrderedDict": b"ccollections\nOrderedDict\n",
    "set": b"cbuiltins\nset\n",
    "Counter": b"ccollections\nCounter\n",
}
CALL |= {"Size": b"ctorch\nSize\n", "storage": b"ctorch.storage\nUntypedStorage\n"}


def nested(made, joined, times):
    """A value that holds the former one twice, `times` times."""
    return b"\x80\x02" + made + b"q\0" + b"".join(joined % (i, i, i + 1) for i in range(times))


def again(function, argument, times=100_000):
    """Calls a function with one large argument, again and again, and keeps the results."""
    return b"\x80\x02" + function + b"q\0" + argument + b"\x85q\1]" + b"(" + b"h\0h\1R" * times + b"e."


NUMBERS = b"](" + b"".join(b"M" + struct.pack("<H", i) for i in range(65_536)) + b"e"
PAIRS = b"](" + b"".join(b"M" + struct.pack("<H", i) + b"K\0\x86" for i in range(60_000)) + b"e"
TEXT = b"X" + struct.pack("<I", 400_000) + b"a" * 400_000
PICKLES = {
    "tuples in tuples": nested(b")", b"h%ch%c\x86q%c", 40) + b"}h\x28K\x01s.",
    "lists in lists": b"\x80\x02]q\0" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(28)) + b"}b.",
    "a tuple as a key, again and again": nested(b")", b"h%ch%c\x86q%c", 17) + b"}(" + b"h\x11K\1" * 200_000 + b"u.",
    "dictionaries": again(CALL["OrderedDict"], PAIRS),
    "sets": again(CALL["set"], NUMBERS),
    "counts": again(CALL["Counter"], NUMBERS),
    "sizes": again(CALL["Size"], NUMBERS),
    "storages": again(CALL["storage"], NUMBERS),
    "bytes of a text": b"\x80\x02c_codecs\nencode\nq\0"
    + TEXT
    + b"X\6\0\0\0latin1\x86q\1]("
    + b"h\0h\1R" * 80_000
    + b"e.",
    "punycode": b"\x80\x02c_codecs\nencode\n"
    + b"X"
    + struct.pack("<I", 900_000)
    + "".join(map(chr, range(0x4E00, 0x9E00))).encode()[:60_000] * 15
    + b"X\x08\0\0\0punycode\x86R.",
    "attributes": b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\1}("
    + b"".join(b"X\3\0\0\0%03dK\0" % i for i in range(1000))
    + b"uq\2b"
    + b"("
    + b"h\0)Rh\2b" * 100_000
    + b"l.",
    "a long number": b"\x80\x02\x8b"
    + struct.pack("<I", 400_000)
    + b"\1" * 400_000
    + b"q\0}("
    + b"h\0K\1" * 120_000
    + b"u.",
    "a number of bytes": b"\x80\x02cbuiltins\nbytearray\n\x8a\5\0\0\0\0\2\x85R.",
    "a tensor of a number": b"\x80\x02}X\5\0\0\0modelctorch\nLongTensor\n\x8a\5\0\0\0\0\1\x85Rs.",
    "lists, deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "bytes beyond the end": b"\x80\4\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "a memo beyond the end": b"\x80\2]r\xff\xff\xff\x7f.",
    "empty": b"",
    "one byte": b"\x80",
    "no end": b"\x80\2]",
}


def torch_files():
    """Files of `torch.save` with tensors that ask for more than they hold."""
    one = torch.zeros(1)
    values = {
        "a view that repeats one number": {"a": one.expand(2**30)},
        "a tensor without numbers": {"a": torch.empty(2**33, device="meta")},
        "a sparse tensor": {"a": torch.sparse_coo_tensor([[0]], [1.0], (2**33,))},
        "numbers of weights": {"token_emb.speech.weight": 5},
        "weights under numbers": {5: one},
        "whole numbers": {name: value.long() for name, value in make_model().state_dict().items()},
        "a text": {"model": {"a": "text"}},
        "nothing": {"model": {}},
    }
    for name, value in values.items():
        for options in ({}, {"_use_new_zipfile_serialization": False}):
            file = io.BytesIO()
            torch.save(value, file, **options)
            yield f"{name} {len(options)}", file.getvalue()


def archive(name, data, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr(name, data)
    return file.getvalue()


def npy(text, data=b"", version=b"\1\0"):
    head = text.encode().ljust(118) + b"\n"
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(head))
    return b"\x93NUMPY" + version + size + head + data


def shape(value, kind="'<f4'"):
    return "{'descr': " + kind + ", 'fortran_order': False, 'shape': " + value + ", }"


def header(value, data=b""):
    """A file of safetensors."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(*sizes, dtype="F32", offsets=(0, 4)):
    return {"dtype": dtype, "shape": sizes, "data_offsets": offsets}


def codebooks():
    yield "bz2.bin", bz2.compress(ZEROS[: 2**22]) * 400
    yield "gz.bin", gzip.compress(ZEROS) * 10
    yield "xz.bin", lzma.compress(ZEROS[: 2**22]) * 40
    yield "old.bin", lzma.compress(ZEROS * 5, lzma.FORMAT_ALONE, preset=0)
    yield "dictionary.bin", b"\x5d\0\0" + struct.pack("<I", 0xFFFFFFFF)[:2] + struct.pack("<Q", 2**40) + b"\0" * 99
    yield "tuples.gz", gzip.compress(PICKLES["tuples in tuples"])
    yield "z.bin", zlib.compress(ZEROS * 8)
    yield "streams.bin", bz2.compress(b"") * 70_000
    yield "members.bin", gzip.compress(b"") * 50_000
    for name, data in PICKLES.items():
        yield f"{name}.bin", data
    for name, text in {
        "large": shape("(1099511627776, 9)"),
        "larger": shape("(" + "9" * 400 + ", 9)"),
        "negative": shape("(-1, -4)"),
        "no numbers": shape("('a', 9)"),
        "objects": shape("(1, 1)", "'|O'"),
        "parts": shape("(1, 1)", "[('a', '<f4', (1000000000,))]"),
        "code": "__import__('os').system('exit')",
        "brackets": "(" * 110,
        "half": "{'descr': '<f4'",
    }.items():
        yield f"{name}.npy", npy(text, b"\0" * 16)
        yield f"{name}.npz", archive("a.npy", npy(text, b"\0" * 16))
    yield "header.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{"
    yield "version.npy", b"\x93NUMPY\x09\0\0\0"
    yield "zeros.npz", archive("a.npy", ZEROS * 6)
    yield "lzma.npz", archive("a.npy", ZEROS, zipfile.ZIP_LZMA)[:-200] + b"\0" * 178 + b"PK\5\6" + b"\0" * 18
    locked = bytearray(archive("a.npy", npy(shape("(1, 1)"), b"\0" * 4)))
    place = locked.index(b"PK\1\2")
    locked[6], locked[place + 8] = 1, 1  # marked as encrypted
    yield "locked.npz", bytes(locked)
    yield from safetensors_files()


def safetensors_files():
    yield "length.safetensors", b"\xff" * 8 + b"{}"
    yield "short.safetensors", b"\1"
    yield "deep.safetensors", header(b"[" * 200_000)
    yield "large.safetensors", header({"a": tensor(2**40, 9)}, b"\0" * 4)
    yield "larger.safetensors", header({"a": tensor(*[2**62] * 2000)}, b"\0" * 4)
    yield "negative.safetensors", header({"a": tensor(-1, -1)}, b"\0" * 4)
    yield "offsets.safetensors", header({"a": tensor(1, 1, offsets=(0, 2**60))}, b"\0" * 4)
    yield "no type.safetensors", header({"a": tensor(1, 1, dtype="F3")}, b"\0" * 4)
    yield "a number.safetensors", header({"a": 1})
    yield "many.safetensors", header({f"{i}": tensor(0, 1, offsets=(0, 0)) for i in range(13_000)})


def weights():
    for name, data in PICKLES.items():
        yield f"{name}.pt", data
    yield from ((f"{name}.pt", data) for name, data in torch_files())
    yield "inner.pt", archive("a/data.pkl", b"\x80\x02" + b"N0" * 2**22 + b"N.")
    yield "several.pt", archive("a/data.pkl", PICKLES["dictionaries"], zipfile.ZIP_STORED)
    yield from safetensors_files()
