"""The policy's `ledger`: what becomes of requests when the disk fails, and what a hold survives."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from typing_extensions import override

from tests.ledger.world import SmallDisk
from tests.served.world import a_policy, serving
from tests.upstream import Upstream, says


class UnsyncedDisk(SmallDisk):
    """A disk on which nothing can be made durable."""

    @override
    def sync(self, fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


async def test_a_full_disk_is_bridged_and_booked_later_with_on_failure_buffer(tmp_path: Path):
    disk = SmallDisk()
    async with (
        Upstream({"What is it?": says("A cat.")}) as upstream,
        serving(tmp_path, a_policy([upstream.url], ledger={"on_failure": "buffer"}), files=disk) as served,
    ):
        disk.room = 0
        answer = await served.ask()
        ready = await served.send("/health/readiness", method="GET")
        disk.room = None

        rows = await served.rows_of(answer)

    assert (answer.status, ready.status) == (200, 200)
    assert ready.json["ledger"]["pending"] >= 2
    assert "No space left" in ready.json["ledger"]["error"]
    assert [row["kind"] for row in rows.charges] == ["answer"]


class ReadOnlyDisk(SmallDisk):
    """A disk that was remounted read-only, until told otherwise."""

    is_read_only = False

    @override
    def write(self, fd: int, line: bytes) -> int:
        if self.is_read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        return super().write(fd, line)


@pytest.mark.parametrize(("on_failure", "status", "paid"), [("refuse", 503, 0), ("buffer", 200, 1)])
async def test_a_disk_that_becomes_read_only_refuses_or_buffers_and_nothing_is_unbooked(
    tmp_path: Path, on_failure: str, status: int, paid: int
):
    disk = ReadOnlyDisk()
    async with (
        Upstream({"What is it?": says("A cat.")}) as upstream,
        serving(tmp_path, a_policy([upstream.url], ledger={"on_failure": on_failure}), files=disk) as served,
    ):
        disk.is_read_only = True
        answer = await served.ask()
        ready = await served.send("/health/readiness", method="GET")
        disk.is_read_only = False

        rows = await served.rows_of(answer)

    assert (answer.status, len(upstream.requests), len(rows.charges)) == (status, paid, paid)
    assert [row["status"] for row in rows.requests] == [status]
    assert "Read-only file system" in ready.json["ledger"]["error"]


@pytest.mark.parametrize("can_sync", [True, False])
async def test_with_durability_power_the_upstream_is_asked_only_when_the_disk_has_the_hold(
    tmp_path: Path, can_sync: bool
):
    disk = SmallDisk() if can_sync else UnsyncedDisk()
    async with (
        Upstream({"What is it?": says("A cat.")}) as upstream,
        serving(tmp_path, a_policy([upstream.url], ledger={"durability": "power"}), files=disk) as served,
    ):
        answer = await served.ask()
        rows = await served.rows_of(answer)

    assert (answer.status, len(upstream.requests), len(rows.charges)) == ((200, 1, 1) if can_sync else (503, 0, 0))
