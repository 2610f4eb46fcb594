"""Downloading and extracting: whatever happens, it ends whole or with a clear error.

`LUNGSEG_KILLS=50 pytest tests/test_download.py -k killed` kills at 50 random moments instead of 4.
"""

import hashlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from helpers_server import FlakyServer

from lungseg_utils.decathlon import archive, download, fetch, load
from lungseg_utils.runtime import LungsegError

download_module = importlib.import_module(
    "lungseg_utils.decathlon.download"
)  # its function has its name
KILLS = int(os.environ.get("LUNGSEG_KILLS", "4"))
QUICK = {"delays_s": (0.01,) * 3, "timeout_s": 0.3}
JSON = {
    "name": "Toy",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "cancer"},
    "numTraining": 2,
    "training": [
        {"image": f"./imagesTr/toy_{i}.nii.gz", "label": f"./labelsTr/toy_{i}.nii.gz"}
        for i in (1, 0)
    ],
    "test": [],
}
CHILD = """import sys
from lungseg_utils.decathlon import download
download(sys.argv[1], url=sys.argv[2], md5=sys.argv[3])"""
STEPS = """import itertools, os, sys
from lungseg_utils.decathlon import download
root, url, md5 = sys.argv[1:]
download(os.path.join(root, "undisturbed"), url=url, md5=md5)
for step in itertools.count():  # die before the first, second, third ... change of a file or folder
    folder = os.path.join(root, str(step))
    if not (pid := os.fork()):
        steps = iter(range(step))
        def die(event, arguments):
            kinds = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
            inside = any(str(name).startswith(folder + os.sep) for name in arguments[:2])
            if event in kinds and inside:
                next(steps, None) is None and os._exit(9)
        sys.addaudithook(die)
        download(folder, url=url, md5=md5)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break"""


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def make_tar(*members, form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def toy_members(size=20_000, extra=0):
    noise = random.Random(0).randbytes
    files = [
        (f"{folder}/toy_{i}.nii.gz", noise(size))
        for folder in ("imagesTr", "labelsTr")
        for i in (0, 1)
    ]
    files += [(f"imagesTs/junk_{i}.txt", noise(2000)) for i in range(extra)]
    top = "Task99_Toy"
    return [
        member(top, type=tarfile.DIRTYPE, mode=0o755),
        member(f"{top}/dataset.json", json.dumps(JSON).encode()),
        member(f"{top}/imagesTr/._toy_0.nii.gz", b"mac"),
        *(member(f"{top}/{name}", data) for name, data in files),
    ]


def md5(data):
    return hashlib.md5(data).hexdigest()


def tree(folder):
    """Return path and content of every file but the hidden ones of the program."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != ".origin.json"
        and not path.relative_to(folder).parts[0].startswith(".")
    }


TOY = make_tar(*toy_members())


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a tar.

    It returns the folder for the dataset and the arguments of download.
    """

    def write(data, name="Task99_Toy.tar"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere" / name).write_bytes(data)
        return tmp_path / "data", {"url": str(tmp_path / "elsewhere" / name), "md5": md5(data)}

    return write


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.fault("download cut, short or wrong")
@pytest.mark.fault("server errors, sign-in pages, redirects, stalls")
@pytest.mark.parametrize(
    ("mode", "requests"),
    [
        ("ok", 1),
        ("redirect", 2),
        ("no_range", 1),
        ("once_500", 2),
        ("slow", 1),
        ("cut", 3),
        ("no_length", 3),
        ("stall", 2),
        ("wrong_then_ok", 3),
    ],
)
def test_a_download_gets_there(tmp_path, mode, requests):
    with FlakyServer(TOY, mode) as server:
        target = download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)
    assert target == tmp_path / "Task99_Toy" and [case.id for case in load(target).training] == [
        "toy_0",
        "toy_1",
    ]
    assert len(server.requests) == requests
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        "Task99_Toy",
        "Task99_Toy.tar",
    }
    assert not list(target.rglob("._*"))


@pytest.mark.fault("server errors, sign-in pages, redirects, stalls")
@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        ("wrong", "has md5"),
        ("changed", "has md5"),
        ("ignores_if_range", "has md5"),
        ("html", "web page"),
        ("html_as_tar", "web page"),
        ("403", "answers 403"),
        ("404", "answers 404"),
        ("416", "answers 416"),
        ("500", "answers 500"),
        ("loop", "redirects"),
        ("to_file", "redirects"),
        ("to_ftp", "redirects"),
        ("cut_no_range", "was cut after"),
        ("weak_tag", "was cut after"),
    ],
)
def test_a_download_that_cannot_succeed_says_why_and_leaves_no_final_name(tmp_path, mode, cause):
    with FlakyServer(TOY, mode) as server, pytest.raises(LungsegError, match=cause):
        download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)
    assert not (tmp_path / "Task99_Toy").exists() and not (tmp_path / "Task99_Toy.tar").exists()


@pytest.mark.fault("download cut, short or wrong")
def test_a_cut_download_goes_on_where_it_was(tmp_path):
    with FlakyServer(TOY, "cut") as server:
        download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)
    step = len(TOY) // 3
    assert [asked for asked, _ in server.requests] == [
        None,
        *(f"bytes={n * step}-" for n in (1, 2)),
    ]
    assert all(condition == f'"{md5(TOY)}"' for _, condition in server.requests[1:])


@pytest.mark.fault("server without Range; file changed meanwhile")
def test_a_changed_file_is_never_spliced(tmp_path):
    other = TOY[::-1]
    with (
        FlakyServer(TOY, "changed") as server,
        pytest.raises(LungsegError, match=md5(other)),  # the md5 of the new version, whole
    ):
        download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)


@pytest.mark.fault("server without Range; file changed meanwhile")
def test_the_rest_of_another_version_is_refused_even_if_the_server_offers_it(tmp_path):
    once = QUICK | {"delays_s": ()}
    with FlakyServer(TOY, "ignores_if_range") as server:
        with pytest.raises(LungsegError, match="was cut after"):
            download(tmp_path, url=server.url, md5=md5(TOY), **once)
        with pytest.raises(LungsegError, match="part of another version"):
            download(tmp_path, url=server.url, md5=md5(TOY), **once)
    assert server.requests[1][0] and not (tmp_path / "Task99_Toy.tar.part").exists()


@pytest.mark.fault("server without Range; file changed meanwhile")
def test_a_part_of_another_address_is_not_continued(tmp_path):
    (tmp_path / "Task99_Toy.tar.part").write_bytes(b"x" * 1000)
    note = {
        "url": "http://127.0.0.1/other",
        "md5": md5(TOY),
        "validator": f'"{md5(TOY)}"',
        "length": len(TOY),
    }
    (tmp_path / "Task99_Toy.tar.part.json").write_text(json.dumps(note))
    with FlakyServer(TOY) as server:
        download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)
    assert server.requests == [(None, None)]


@pytest.mark.fault("server errors, sign-in pages, redirects, stalls")
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://example.org/a.tar",
        "https://example.org/page",
        "no/such.tar",
        "~no such user/a.tar",
        "http://example.org/..%2f..%2fa.tar",
        "http://example.org/.tar",
    ],
)
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(LungsegError):
        download(tmp_path, url=url, md5=md5(TOY), **QUICK)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http:///a.tar", "names no server"),
        ("http://h:0/a.tar", "port 0"),
        ("http://h:99999/a.tar", "range"),
        ("http://h:x/a.tar", "not a valid address"),
        ("http://[::1/a.tar", "not a valid address"),
    ],
)
def test_a_malformed_address_is_refused_before_any_try(tmp_path, monkeypatch, url, cause):
    monkeypatch.setattr(download_module, "fetch", lambda *_, **__: pytest.fail("it was tried"))
    with pytest.raises(LungsegError, match=cause) as caught:
        download(tmp_path, url=url, md5=md5(TOY), **QUICK)
    assert str(caught.value).startswith(f"{url}: ") and not list(tmp_path.rglob("*"))


def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path):
    with pytest.raises(LungsegError, match="http://…@h/a.tar: holds") as caught:
        download(tmp_path, url="http://me:s3cret@h/a.tar", md5=md5(TOY), **QUICK)
    assert "s3cret" not in str(caught.value) and not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(("mode", "is_kept"), [("500", False), ("weak_tag", True)])
def test_a_part_is_reported_as_kept_where_there_is_one(tmp_path, mode, is_kept):
    with (
        FlakyServer(TOY, mode) as server,
        pytest.raises(LungsegError, match="Run it again later") as caught,
    ):
        download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)
    assert (
        ("MB are kept in" in str(caught.value))
        == is_kept
        == (tmp_path / "Task99_Toy.tar.part").exists()
    )


def test_an_md5_is_required(tmp_path):
    with pytest.raises(LungsegError, match="32 hexadecimal digits"):
        download(tmp_path, url="http://127.0.0.1/a.tar", md5="", **QUICK)


# --- what is there already ------------------------------------------------------------------------


def test_a_tar_that_is_there_is_used_and_a_second_call_does_nothing(tmp_path):
    (tmp_path / "Task99_Toy.tar").write_bytes(TOY)
    arguments = {
        "url": "http://127.0.0.1:9/Task99_Toy.tar",
        "md5": md5(TOY),
        **QUICK,
    }  # nobody listens there
    target = download(tmp_path, **arguments)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert download(tmp_path, **arguments) == target
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.fault("another archive already there")
def test_a_tar_with_the_wrong_md5_is_left_alone_and_named(tmp_path):
    (tmp_path / "Task99_Toy.tar").write_bytes(b"mine")
    with (
        FlakyServer(TOY) as server,
        pytest.raises(LungsegError, match=f"md5 {md5(b'mine')}, not {md5(TOY)}"),
    ):
        download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)
    assert (tmp_path / "Task99_Toy.tar").read_bytes() == b"mine" and not server.requests


def test_a_dataset_of_another_archive_is_not_taken_for_this_one(put):
    folder, arguments = put(TOY)
    download(folder, **arguments)
    with pytest.raises(LungsegError, match="comes from another archive"):
        download(folder, **arguments | {"md5": "0" * 32})


def test_a_folder_in_the_way_is_reported(put):
    folder, arguments = put(TOY)
    (folder / "Task99_Toy").mkdir(parents=True)
    with pytest.raises(LungsegError, match="in the way"):
        download(folder, **arguments)


def test_a_dataset_that_the_user_extracted_is_used_with_a_warning(put, capsys):
    folder, arguments = put(TOY)
    (folder / "Task99_Toy").mkdir(parents=True)
    (folder / "Task99_Toy" / "dataset.json").write_text("{}")
    assert download(folder, **arguments) == folder / "Task99_Toy"
    assert "used unchecked" in capsys.readouterr().err


# --- the archive ----------------------------------------------------------------------------------

TOP = "Task99_Toy/"
HOSTILE = {
    "parent": member("../evil.txt", b"x"),
    "parent inside": member(f"{TOP}a/../../../evil.txt", b"x"),
    "absolute": member("/lungseg_evil.txt", b"x"),
    "backslash": member(f"{TOP}..\\..\\evil.txt", b"x"),
    "drive": member("C:/evil.txt", b"x"),
    "control character": member(f"{TOP}a\nb.txt", b"x"),
    "trailing dot": member(f"{TOP}x./evil.txt", b"x"),
    "deep": member("a/" * 33_000 + "b", b"x"),
    "long": member(f"{TOP}{'ä' * 128}", b"x"),
    "no name": member(".", b"x"),
    "symbolic link": member(f"{TOP}link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member(f"{TOP}link", type=tarfile.LNKTYPE, linkname=f"{TOP}dataset.json"),
    "fifo": member(f"{TOP}pipe", type=tarfile.FIFOTYPE),
    "device": member(f"{TOP}null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": member(f"{TOP}disk", type=tarfile.BLKTYPE),
    "setuid": member(f"{TOP}tool", b"x", mode=0o4755),
    "duplicate": member(f"{TOP}imagesTr/toy_0.nii.gz", b"x"),
    "duplicate by a dot": member(f"{TOP}./imagesTr//toy_0.nii.gz", b"x"),
    "duplicate in other case": member(f"{TOP}imagesTr/TOY_0.nii.gz", b"x"),
    "file for a folder": member(f"{TOP}imagesTr", b"x"),
    "below a file": member(f"{TOP}dataset.json/x", b"x"),
    "sparse": member(
        f"{TOP}sparse",
        b"x",
        pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(50 << 30)},
    ),
}


@pytest.mark.fault("hostile members of an archive")
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_hostile_member_stops_it_before_anything_is_written(put, kind, place):
    members = toy_members(100)
    members.insert(0 if place == "first" else len(members), HOSTILE[kind])
    folder, arguments = put(make_tar(*members))
    with pytest.raises(LungsegError, match="nothing was extracted"):
        download(folder, **arguments)
    assert not tree(folder.parent / "data") and {path.name for path in folder.parent.iterdir()} == {
        "data",
        "elsewhere",
    }


def claiming(size):
    """Make a tar whose last member claims `size` bytes that are not there."""
    forged = tarfile.TarInfo(f"{TOP}big.nii.gz")
    forged.size = size
    whole = make_tar(*toy_members(100))
    return whole[: whole.rindex(b"toy_1.nii.gz") // 512 * 512 + 1024] + forged.tobuf(
        tarfile.GNU_FORMAT
    )


SMALL = make_tar(*toy_members(1000, extra=1))
LAST = SMALL.rindex(
    f"{TOP}imagesTs/junk_0.txt".encode()
)  # header of the last member, which dataset.json does not name


@pytest.mark.fault("cut, damaged or foreign archive")
@pytest.mark.parametrize(
    "data",
    {
        "cut in a file": SMALL[: LAST + 512 + 1000],
        "cut in a header": SMALL[: LAST + 100],
        "cut between two members": SMALL[:LAST],
        "damaged header": SMALL[:LAST] + b"\x55" + SMALL[LAST + 1 :],
        "empty": b"",
        "zeros": bytes(10240),
        "web page": b"<html>Please sign in</html>",
        "gzip": b"\x1f\x8b\x08" + bytes(600),
        "claims 50 GiB": claiming(50 << 30),
        "claims less than nothing": claiming(-512),
        "no dataset.json": make_tar(member("Task99_Toy/readme.txt", b"x")),
        "missing files": make_tar(*toy_members(100)[:-1]),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_bad_archive_leaves_no_dataset(put, data):
    folder, arguments = put(data[1])
    with pytest.raises(LungsegError, match=r"Task99_Toy\.tar: "):
        download(folder, **arguments)
    assert not tree(folder)


def test_a_dataset_without_a_folder_round_it_is_extracted_too(put):
    folder, arguments = put(
        make_tar(
            *(
                (info, data)
                for info, data in toy_members(100)
                if info.isreg() and not setattr(info, "name", "./" + info.name.removeprefix(TOP))
            )
        )
    )
    assert len(load(download(folder, **arguments)).training) == 2


def test_too_many_members_are_refused(put, monkeypatch):
    monkeypatch.setattr(archive, "MOST_MEMBERS", 5)
    folder, arguments = put(make_tar(*toy_members(100)))
    with pytest.raises(LungsegError, match="more than 5 members"):
        download(folder, **arguments)


@pytest.mark.fault("archive larger than the disk")
@pytest.mark.parametrize("module", [archive, fetch])
def test_free_space_is_looked_at_before(tmp_path, put, module, monkeypatch):
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000)
    )
    with (
        FlakyServer(TOY) as server,
        pytest.raises(LungsegError, match=r"0 MB are needed.*0 MB are free"),
    ):
        folder, arguments = put(TOY)
        download(folder, **(arguments if module is archive else arguments | {"url": server.url}))
    assert not tree(folder)


# --- other processes, and ends --------------------------------------------------------------------


def start(folder, url, data, script=CHILD, **options):
    command = [sys.executable, "-c", script, str(folder), url, md5(data)]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def kill_when(process, condition, *arguments):
    """Kill -9 as soon as `condition(*arguments)` holds; return whether it was still at work."""
    while process.poll() is None and not condition(*arguments):
        time.sleep(0.0005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def is_longer(path, size):
    try:
        return path.stat().st_size > size
    except FileNotFoundError:  # not yet there, or just renamed
        return False


def has_more_files(folder, count):
    try:
        return len(os.listdir(folder)) > count
    except FileNotFoundError:
        return False


@pytest.mark.fault("two processes at once")
def test_two_processes_at_once_download_once(tmp_path):
    with FlakyServer(TOY, "slow") as server:
        both = [start(tmp_path, server.url, TOY) for _ in range(2)]
        stderr = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0] and len(server.requests) == 1, stderr
    assert len(load(tmp_path / "Task99_Toy").training) == 2


@pytest.mark.fault("full disk")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_is_reported_and_the_part_is_kept(tmp_path):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    with FlakyServer(TOY) as server:
        stderr = start(tmp_path, server.url, TOY, preexec_fn=limit).communicate(timeout=60)[1]
        assert "no room to write it" in stderr
        assert (tmp_path / "Task99_Toy.tar.part").stat().st_size == 30_000
        assert len(load(download(tmp_path, url=server.url, md5=md5(TOY), **QUICK)).training) == 2
    assert server.requests[1][0] == "bytes=30000-"


@pytest.mark.fault("kill -9")
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_download_killed_anywhere_is_ended_by_the_next(tmp_path):
    moments, resumed = random.Random(1), 0
    for i in range(KILLS):
        folder = tmp_path / str(i)
        part = folder / "Task99_Toy.tar.part"
        enough = moments.randrange(len(TOY) * 9 // 10)
        with FlakyServer(TOY, "slow") as server:
            killed = kill_when(start(folder, server.url, TOY), is_longer, part, enough)
            server.mode = "ok"
            download(folder, url=server.url, md5=md5(TOY), **QUICK)
            resumed += killed and server.requests[-1][0] is not None
        assert tree(folder) == expected(TOY)
    assert resumed


@pytest.mark.fault("kill -9")
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_an_extraction_killed_anywhere_is_ended_by_the_next(tmp_path, put):
    data = make_tar(*toy_members(extra=120))
    moments, hits = random.Random(2), 0
    for i in range(KILLS):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "Task99_Toy.tar").write_bytes(data)
        stage = folder / ".Task99_Toy.extracting" / "Task99_Toy" / "imagesTs"
        url = "http://127.0.0.1:9/Task99_Toy.tar"
        process = start(folder, url, data)
        hits += kill_when(process, has_more_files, stage, moments.randrange(110))
        assert (
            not (folder / "Task99_Toy").exists()
            or len(os.listdir(folder / "Task99_Toy" / "imagesTs")) == 120
        )
        download(folder, url=url, md5=md5(data), **QUICK)
        assert tree(folder) == expected(data)
        assert not (folder / ".Task99_Toy.extracting").exists()
    assert hits


@pytest.mark.fault("kill -9")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_dies_before_any_step_on_the_disk_is_ended_by_the_next(tmp_path):
    with FlakyServer(TOY) as server:
        child = start(tmp_path, server.url, TOY, script=STEPS)
        assert child.communicate(timeout=100)[1] == "" and child.returncode == 0
        folders = [path for path in tmp_path.iterdir() if path.name != "undisturbed"]
        for folder in folders:
            final = folder / "Task99_Toy"
            assert not final.exists() or len(load(final).training) == 2
            download(folder, url=server.url, md5=md5(TOY), **QUICK)
            assert tree(folder) == expected(TOY) == tree(tmp_path / "undisturbed")
            assert not (folder / ".Task99_Toy.extracting").exists()
    assert len(folders) > 20


def expected(data):
    """Return what an undisturbed run leaves, worked out with tarfile alone."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {
            info.name: tar.extractfile(info).read()
            for info in tar
            if info.isreg() and "._" not in info.name
        }
    return {"Task99_Toy.tar": data, **dict(sorted(files.items()))}
