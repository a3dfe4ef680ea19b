"""Download data sets by URL and checksum; unpack archives that were checked first."""

import dataclasses
import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from genenet.errors import InputError
from genenet.folder import writing

Progress = Callable[[int, int], None]

_BLOCK_BYTES = 2**20
_TIMEOUT_S = 60
_SCHEMES = ("http", "https")
_ARCHIVES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A public data set.

    Attributes:
        url: Where it is.
        md5: The checksum of what is there, 32 hexadecimal digits.
        description: One line.
    """

    url: str
    md5: str
    description: str


DATASETS = {
    "platelet": Dataset(
        url="https://www.dropbox.com/s/68yclbraqq1diza/platelet_data_1219.zip?dl=1",
        md5="253310093ee2c00304fbabdb0c7e3a4a",
        description="human platelets, SBF-SEM, labels of 7 classes (Guay et al. 2021)",
    ),
}


def fetch(
    url: str, folder: str | os.PathLike[str], *, md5: str, unpack: bool = False, progress: Progress | None = None
) -> Path:
    """Download a file unless it is there already, and check it.

    An interrupted download stays as `NAME.part` and is continued by the next call where the server allows it.

    Args:
        url: An `http` or `https` address whose path ends with the file's name.
        folder: Where to put the file; made when missing.
        md5: The file's checksum.
        unpack: Unpack a zip or tar archive into a folder of its name beside it.
        progress: Called with the bytes there and in all (0 when the server does not say).

    Returns:
        The file, or with `unpack` the folder with what was in it.

    Raises:
        InputError: The address cannot be used, the download broke off, the checksum differs, another file has
            that name, or the archive would write outside its folder.
    """
    name = _file_name(url)
    if not re.fullmatch(r"[0-9a-fA-F]{32}", md5):
        raise InputError(f"an md5 checksum is 32 hexadecimal digits, but got {md5!r}")
    path = Path(folder) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch_new(url, path, md5.lower(), progress)
    elif not path.is_file() or _md5(path) != md5.lower():
        raise InputError(f"{path} exists and has another checksum than {md5}; remove it or choose another folder")
    return _unpack(path) if unpack else path


def _fetch_new(url: str, path: Path, md5: str, progress: Progress | None) -> None:
    part = path.with_name(f"{path.name}.part")
    _download(url, part, progress)
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise InputError(
            f"{url} has the md5 checksum {found}, but {md5} was expected; nothing was kept, "
            "check the address and the checksum"
        )
    part.replace(path)


def is_archive(url: str) -> bool:
    """Whether an address names something that `fetch` can unpack.

    >>> is_archive("https://example.org/data.zip?dl=1")
    True
    """
    return _file_name(url).lower().endswith(_ARCHIVES)


def _file_name(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise InputError(f"an address to fetch starts with http:// or https://, but got {url}")
    name = PurePosixPath(urllib.parse.unquote(parts.path)).name
    if name in ("", "..") or "\\" in name or "\0" in name:
        raise InputError(f"the path of an address to fetch must end with a file name, but got {url}")
    return name


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """Bring `part` to the end of what is at `url`, from where an earlier call stopped."""
    have = part.stat().st_size if part.exists() else 0
    try:
        with _request(url, have) as response:
            if have and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else 0
            have = _receive(response, part, have, total, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # there is nothing after what is here; the checksum says whether it is right
        raise InputError(f"{url} answered {error.code} {error.reason}; check the address") from error
    except urllib.error.URLError as error:
        raise InputError(f"cannot reach {url}: {error.reason}; check the address and the network") from error
    except (http.client.HTTPException, OSError) as error:
        raise InputError(f"the download of {url} broke off: {error!r}; run it again to continue") from error
    if have < total:
        raise InputError(f"the download of {url} broke off at {have} of {total} bytes; run it again to continue")


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only; urllib follows those to FTP too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Give the request that follows, or refuse it."""
        if urllib.parse.urlsplit(newurl).scheme not in _SCHEMES:
            raise InputError(f"{req.full_url} leads to {newurl}, which is neither http nor https; check the address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str, have: int) -> Any:
    headers = {"User-Agent": "genenet"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    return urllib.request.build_opener(_HttpOnly).open(request, timeout=_TIMEOUT_S)


def _receive(response: Any, part: Path, have: int, total: int, progress: Progress | None) -> int:
    """Append to the first `have` bytes of `part`; give how many there are then."""
    with part.open("ab" if have else "wb") as file:
        while block := response.read(_BLOCK_BYTES):
            file.write(block)
            have += len(block)
            if progress is not None:
                progress(have, total)
    return have


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path) -> Path:
    """Unpack beside, into a folder that is whole or absent; one that is there already is left alone."""
    suffix = next((suffix for suffix in _ARCHIVES if archive.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"only archives can be unpacked, {', '.join(_ARCHIVES)}, but got {archive.name}")
    folder = archive.with_name(archive.name[: -len(suffix)])
    if folder.is_dir():
        return folder
    try:
        with writing(folder) as beside:
            beside.mkdir()
            if suffix == ".zip":
                _unpack_zip(archive, beside)
            else:
                _unpack_tar(archive, beside)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot unpack {archive}: {reason}; fetch it again or unpack it by hand") from error
    return folder


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            mode = member.external_attr >> 16
            is_plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
            _check_member(archive, member.filename, is_plain=is_plain)
        _check_room(archive, folder, sum(member.file_size for member in opened.infolist()))
        opened.extractall(folder)  # noqa: S202 - every member was checked


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            _check_member(archive, member.name, is_plain=member.isreg() or member.isdir())
        _check_room(archive, folder, sum(member.size for member in opened.getmembers()))
        opened.extractall(folder, filter="data")  # noqa: S202 - every member was checked


def _check_member(archive: Path, name: str, *, is_plain: bool) -> None:
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    is_inside = not (windows.drive or windows.root or posix.root or ".." in windows.parts)
    if not (is_inside and is_plain):
        reason = "is neither a file nor a folder" if is_inside else "lies outside its folder"
        raise InputError(f"{archive} is not safe to unpack: its member {name!r} {reason}; nothing was unpacked")


def _check_room(archive: Path, folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise InputError(
            f"{archive} unpacks to {n_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free on the disk; make room"
        )
