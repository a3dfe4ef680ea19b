"""Downloads: whole and checked, or a clear line; archives that cannot write outside their folder."""

import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from genenet import fetch as module
from genenet.errors import InputError
from genenet.fetch import DATASETS, fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)


def md5(content):
    return hashlib.md5(content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; knows ranges where `has_ranges`; breaks off once after `breaks_after` bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/a.bin": CONTENT}
        self.redirects = {}
        self.has_ranges = True
        self.breaks_after = None
        self.requests = []

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path, wanted = self.path.partition("?")[0], self.headers.get("Range")
        self.server.requests.append((path, wanted))
        if path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[path])
            self.end_headers()
            return
        if path not in self.server.files:
            self.send_error(404, "Not Found")
            return
        content, start = self.server.files[path], 0
        if wanted and self.server.has_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_error(416, "Range Not Satisfiable")
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(content[start:end])


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_comes_whole(tmp_path, server):
    seen = []
    path = fetch(server.url("/a.bin?dl=1"), tmp_path / "new", md5=md5(CONTENT), progress=lambda *n: seen.append(n))
    assert path == tmp_path / "new" / "a.bin"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]


def test_what_is_there_is_not_fetched_again(tmp_path, server):
    for _ in range(2):
        fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT).upper())
    assert len(server.requests) == 1


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_broken_download_goes_on(tmp_path, server, has_ranges):
    server.has_ranges, server.breaks_after = has_ranges, 1_234_567
    with pytest.raises(InputError, match="broke off at 1234567 of 3000000 bytes; run it again to continue"):
        fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT))
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin.part"]
    seen = []
    path = fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT), progress=lambda *n: seen.append(n))
    assert path.read_bytes() == CONTENT
    assert server.requests[1] == ("/a.bin", "bytes=1234567-")
    assert (seen[0][0] > 1_234_567) == has_ranges
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_download_that_ended_before_its_name_was_given_is_kept(tmp_path, server):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT)).read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(tmp_path, server):
    with pytest.raises(InputError, match=f"md5 checksum {md5(CONTENT)}, but {'0' * 32} was expected; nothing was kept"):
        fetch(server.url("/a.bin"), tmp_path, md5="0" * 32)
    assert not list(tmp_path.iterdir())


def test_another_file_of_that_name_is_not_overwritten(tmp_path, server):
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(InputError, match="exists and has another checksum than .*; remove it or choose another folder"):
        fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT))
    assert (tmp_path / "a.bin").read_text() == "mine"
    assert not server.requests


def test_redirects_are_followed_within_http(tmp_path, server):
    server.redirects["/b.bin"] = "/a.bin"
    assert fetch(server.url("/b.bin"), tmp_path, md5=md5(CONTENT)).name == "b.bin"
    server.redirects["/c.bin"] = "ftp://127.0.0.1:1/a.bin"
    with pytest.raises(InputError, match="neither http nor https"):
        fetch(server.url("/c.bin"), tmp_path, md5=md5(CONTENT))


def test_refused_addresses(tmp_path, server):
    with pytest.raises(InputError, match=r"/none\.bin answered 404 Not Found; check the address"):
        fetch(server.url("/none.bin"), tmp_path, md5="0" * 32)
    with pytest.raises(
        InputError, match="cannot reach http://127.0.0.1:1/a.bin: .*; check the address and the network"
    ):
        fetch("http://127.0.0.1:1/a.bin", tmp_path, md5="0" * 32)
    for url in ("file:///etc/passwd", "ftp://host/a.bin", "a.bin", "http:///a.bin"):
        with pytest.raises(InputError, match="starts with http:// or https://"):
            fetch(url, tmp_path, md5="0" * 32)
    for path in ("/", "", "/%2e%2e", "/a%5Cb"):
        with pytest.raises(InputError, match="must end with a file name"):
            fetch(server.url(path), tmp_path, md5="0" * 32)
    with pytest.raises(InputError, match="32 hexadecimal digits, but got 'abc'"):
        fetch(server.url("/a.bin"), tmp_path, md5="abc")
    assert not list(tmp_path.iterdir())


def test_a_server_that_falls_silent_is_one_line(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "_receive", lambda *arguments: (_ for _ in ()).throw(TimeoutError("timed out")))
    with pytest.raises(InputError, match="broke off: TimeoutError.*; run it again to continue"):
        fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT))


# --- archives ------------------------------------------------------------------------------------------------------


def make_zip(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, b"content")
    return buffer.getvalue()


def make_tar(*members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(b"content") if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"content"))
    return buffer.getvalue()


GOOD = {
    "/set.zip": make_zip(("data/", 0o40755), ("data/a.txt", 0o100644), ("b.txt", 0)),
    "/set.tar": make_tar(("data", tarfile.DIRTYPE), ("data/a.txt", tarfile.REGTYPE), ("b.txt", tarfile.REGTYPE)),
    "/set.tar.gz": make_tar(("data/a.txt", tarfile.REGTYPE), ("b.txt", tarfile.REGTYPE), mode="w:gz"),
}
EVIL = {
    "zip, above": ("/a.zip", make_zip(("good.txt", 0), ("../evil.txt", 0))),
    "zip, deep above": ("/a.zip", make_zip(("data/../../evil.txt", 0))),
    "zip, absolute": ("/a.zip", make_zip(("/tmp/evil.txt", 0))),
    "zip, Windows": ("/a.zip", make_zip(("..\\evil.txt", 0))),
    "zip, drive": ("/a.zip", make_zip(("C:/evil.txt", 0))),
    "zip, link": ("/a.zip", make_zip(("evil", 0o120777))),
    "tar, above": ("/a.tar", make_tar(("good.txt", tarfile.REGTYPE), ("../evil.txt", tarfile.REGTYPE))),
    "tar, absolute": ("/a.tar", make_tar(("/tmp/evil.txt", tarfile.REGTYPE))),
    "tar, link": ("/a.tar", make_tar(("evil", tarfile.SYMTYPE))),
    "tar, hard link": ("/a.tar", make_tar(("evil", tarfile.LNKTYPE))),
    "tar, device": ("/a.tar", make_tar(("evil", tarfile.CHRTYPE))),
}


@pytest.mark.parametrize("path", GOOD)
def test_archives_are_unpacked_beside(tmp_path, server, path):
    server.files[path] = GOOD[path]
    for _ in range(2):
        folder = fetch(server.url(path), tmp_path, md5=md5(GOOD[path]), unpack=True)
    assert folder == tmp_path / "set"
    assert (folder / "data" / "a.txt").read_text() == (folder / "b.txt").read_text() == "content"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["set", path[1:]])


@pytest.mark.parametrize("kind", EVIL)
def test_evil_archives_unpack_nothing(tmp_path, server, kind):
    path, content = EVIL[kind]
    server.files[path] = content
    with pytest.raises(InputError, match=r"not safe to unpack: its member .*(outside|neither).*; nothing was unpacked"):
        fetch(server.url(path), tmp_path / "in", md5=md5(content), unpack=True)
    assert [file.name for file in tmp_path.rglob("*")] == ["in", path[1:]]


def test_what_is_no_archive_is_not_unpacked(tmp_path, server):
    with pytest.raises(InputError, match=r"only archives can be unpacked, .*but got a\.bin"):
        fetch(server.url("/a.bin"), tmp_path, md5=md5(CONTENT), unpack=True)
    for name in ("/a.zip", "/a.tar.gz"):
        server.files[name] = CONTENT
        with pytest.raises(InputError, match=r"cannot unpack .*/a\..*; fetch it again or unpack it by hand"):
            fetch(server.url(name), tmp_path, md5=md5(CONTENT), unpack=True)
    assert not (tmp_path / "a").exists()


def test_an_archive_larger_than_the_disk_is_not_unpacked(tmp_path, server, monkeypatch):
    server.files["/set.zip"] = GOOD["/set.zip"]
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=3))
    with pytest.raises(InputError, match=r"unpacks to 0\.0 GB, but only 0\.0 GB are free on the disk; make room"):
        fetch(server.url("/set.zip"), tmp_path, md5=md5(GOOD["/set.zip"]), unpack=True)


def test_the_table_of_data_sets_is_usable():
    for dataset in DATASETS.values():
        assert module._file_name(dataset.url).endswith(".zip")
        assert re.fullmatch("[0-9a-f]{32}", dataset.md5)
        assert "\n" not in dataset.description
    assert DATASETS["platelet"].md5 == "253310093ee2c00304fbabdb0c7e3a4a"
