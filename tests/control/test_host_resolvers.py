# SPDX-License-Identifier: Apache-2.0
"""The host's resolv.conf, followed however it is changed."""

from __future__ import annotations

import asyncio
import os

from switchbox import simulated, until

from vswitch.control import hostresolvers
from vswitch.control.hostresolvers import HostResolvers


class Followed:
    """A folder etc/ with a resolv.conf, and whoever follows it."""

    def __init__(self, folder):
        self.etc = folder / "etc"
        self.etc.mkdir()
        self.path = self.etc / "resolv.conf"
        self.path.write_text("nameserver 192.0.2.1\n")
        self.resolvers = HostResolvers(str(self.path))
        self.heard: list[list[str]] = []
        self.resolvers.follow(lambda: self.heard.append(self.resolvers.current.nameservers))

    async def hears(self, *servers: str) -> None:
        await until(lambda: self.resolvers.current.nameservers == list(servers), f"{servers}")
        assert self.heard[-1] == list(servers)


@simulated
async def test_a_file_that_is_written_or_replaced_or_goes_is_noticed(tmp_path):
    followed = Followed(tmp_path)
    assert followed.resolvers.current.nameservers == ["192.0.2.1"] and followed.heard == []
    followed.path.write_text("nameserver 127.0.0.53\noptions edns0\n")
    await followed.hears("127.0.0.53")
    (tmp_path / "new").write_text("nameserver 192.0.2.3\nnameserver fe80::1%eth0\n")
    os.replace(tmp_path / "new", followed.path)
    await followed.hears("192.0.2.3", "fe80::1%eth0")
    followed.path.unlink()
    await followed.hears()
    followed.path.write_text("nameserver 192.0.2.4\n")
    await followed.hears("192.0.2.4")
    followed.resolvers.close()


@simulated
async def test_a_symbolic_link_is_followed_to_where_it_leads_and_elsewhere(tmp_path):
    followed = Followed(tmp_path)
    for name in ("resolved", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stub.conf").write_text(f"nameserver 192.0.2.{len(name)}\n")
    os.symlink(tmp_path / "resolved" / "stub.conf", tmp_path / "link")
    os.replace(tmp_path / "link", followed.path)
    await followed.hears("192.0.2.8")
    (tmp_path / "new").write_text("nameserver 192.0.2.9\n")
    os.replace(tmp_path / "new", tmp_path / "resolved" / "stub.conf")
    await followed.hears("192.0.2.9")
    (tmp_path / "resolved" / "stub.conf").unlink()
    await followed.hears()
    (tmp_path / "resolved" / "stub.conf").write_text("nameserver 192.0.2.10\n")
    await followed.hears("192.0.2.10")
    os.symlink(tmp_path / "other" / "stub.conf", tmp_path / "link")
    os.replace(tmp_path / "link", followed.path)
    await followed.hears("192.0.2.5")
    (tmp_path / "other" / "stub.conf").write_text("nameserver 192.0.2.6\n")
    await followed.hears("192.0.2.6")
    followed.resolvers.close()


@simulated
async def test_a_write_by_another_name_of_the_same_file_is_noticed(tmp_path):
    followed = Followed(tmp_path)
    os.link(followed.path, tmp_path / "mounted")
    (tmp_path / "mounted").write_text("nameserver 192.0.2.2\n")
    await followed.hears("192.0.2.2")
    followed.resolvers.close()


@simulated
async def test_other_files_and_equal_ones_are_no_news(tmp_path):
    followed = Followed(tmp_path)
    (followed.etc / "hosts").write_text("nameserver 192.0.2.2\n")
    followed.path.write_text("# the same\nnameserver 192.0.2.1\n")
    followed.path.write_text("nameserver 192.0.2.1\n")
    (followed.etc / "last").write_text("")
    for _ in range(20):
        await asyncio.sleep(0)
    followed.path.write_text("nameserver 192.0.2.7\n")
    await followed.hears("192.0.2.7")
    assert followed.heard == [["192.0.2.7"]]
    followed.resolvers.close()


@simulated
async def test_what_is_not_there_or_no_text_names_nobody(tmp_path):
    resolvers = HostResolvers(str(tmp_path / "nowhere" / "resolv.conf"))
    resolvers.follow(lambda: None)
    assert resolvers.current.nameservers == []
    resolvers.close()
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 1000)
    resolvers = HostResolvers(str(tmp_path / "garbage"))
    resolvers.follow(lambda: None)
    assert resolvers.current.nameservers == []
    resolvers.close()


def test_without_inotify_the_file_is_looked_at_every_so_often(tmp_path, monkeypatch):
    import inotify_simple

    def none_left(**how):
        raise OSError(24, "Too many open files")

    @simulated
    async def scene():
        monkeypatch.setattr(inotify_simple, "INotify", none_left)
        monkeypatch.setattr(hostresolvers, "SCAN_INTERVAL_S", 0.01)
        followed = Followed(tmp_path)
        followed.path.write_text("nameserver 192.0.2.2\n")
        await followed.hears("192.0.2.2")
        followed.resolvers.close()

    scene()
