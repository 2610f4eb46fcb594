"""Ways to spoil bytes, JSON, zip and tar archives; a seeded generator draws each change."""

from __future__ import annotations

import contextlib
import io
import zipfile
from random import Random

import numpy as np

SIZES = {"<i1": 1, "<i2": 2, "<i4": 4, "<i8": 8, ">i2": 2, ">i4": 4, "<f4": 4, "<f8": 8}
ODD_NUMBERS = (
    0,
    1,
    -1,
    2,
    255,
    256,
    32767,
    -32768,
    2**31 - 1,
    -(2**31),
    2**62,
    np.nan,
    np.inf,
    -np.inf,
    1e30,
    1e-30,
)
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    2**64,
    "",
    "a" * 300,
    "../../x.nii.gz",
    "/etc/passwd",
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    {"a": {}},
    "./imagesTr/toy_0.nii.gz",
    [1, 2, 3],
    "NaN",
    "I8",
    "F64",
    "U8",
    7,
)
ODD_FIELDS = (
    b"../",
    b"/",
    b"\0",
    b"\x80\xff\xff\xff",
    b"7" * 11,
    b"1",
    b"2",
    b"3",
    b"5",
    b"6",
    b"L",
    b"x",
    b"g",
    b"S",
    b"K",
    b"Task99_Toy/",
    b"0000000 ",
)


def spoil(random: Random, good: bytes, end: int | None = None) -> bytes:
    """Change some of the first `end` bytes: flip, overwrite, insert, remove, repeat, swap, cut."""
    data = bytearray(good)
    for _ in range(random.choice((1, 1, 1, 2, 3, 12))):
        most = max(1, min(len(data), end or len(data)))
        at, length = random.randrange(most), random.choice((1, 1, 2, 4, 8, 64))
        kind = random.choice(tuple(SIZES))
        with np.errstate(all="ignore"):
            number = np.array(random.choice(ODD_NUMBERS)).astype(kind).tobytes()
        match random.randrange(9):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << random.randrange(8)]) if data else b""
            case 1 | 2:
                data[at : at + len(number)] = number
            case 3:
                data[at : at + length] = random.randbytes(length)
            case 4:
                data[at:at] = random.randbytes(length)
            case 5:
                del data[at : at + length]
            case 6:
                data[at:at] = data[at : at + length] * random.choice((1, 2, 50))
            case 7:
                other = random.randrange(most)
                data[at : at + length], data[other : other + length] = (
                    data[other : other + length],
                    data[at : at + length],
                )
            case 8:
                if random.random() < 0.3:
                    del data[at:]
                else:
                    data[at : at + length] = (
                        bytes([random.choice((0, 255, 32, 34, 44, 123))]) * length
                    )
    return bytes(data)


def spoil_tree(random: Random, tree):
    """Replace, remove or repeat a value somewhere in what JSON holds."""
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    for node, key in random.sample(places, min(len(places), random.choice((1, 1, 2)))):
        with contextlib.suppress(KeyError, IndexError):
            match random.randrange(4):
                case 0 if isinstance(node, dict):
                    node[str(random.choice(ODD_VALUES))] = node.pop(key)
                case 0 | 1:
                    del node[key]
                case 2 if isinstance(node[key], int) and not isinstance(node[key], bool):
                    node[key] += random.choice((-1, 1, 2**40, -(2**40)))
                case _:
                    node[key] = random.choice(ODD_VALUES)
    return tree


def spoil_zip(random: Random, good: bytes) -> bytes:
    """Spoil one member of a zip archive; all checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(file, "w") as target:
        names = source.namelist()
        wanted = (
            next(n for n in names if n.endswith("data.pkl"))
            if random.random() < 0.7
            else random.choice(names)
        )
        for name in names:
            content = source.read(name)
            target.writestr(
                zipfile.ZipInfo(name), spoil(random, content) if name == wanted else content
            )
    return file.getvalue()


def spoil_tar(random: Random, good: bytes) -> bytes:
    """Spoil one header of a tar and correct its checksum."""
    starts = [i for i in range(0, len(good), 512) if good[i + 257 : i + 262] == b"ustar"]
    start = random.choice(starts)
    at = random.choice((0, 100, 124, 136, 156, 157, 345, random.randrange(512)))
    odd = random.choice((*ODD_FIELDS, random.randbytes(8)))
    header = bytearray(good[start : start + 512])
    header[at : at + len(odd)] = odd
    header = header[:512].ljust(512, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return good[:start] + bytes(header) + good[start + 512 :]
