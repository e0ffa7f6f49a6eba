# SPDX-License-Identifier: Apache-2.0
"""What is said where the system forbids namespaces or TAP devices."""
import errno
import os

import pytest

from vswitch.container import isolate
from vswitch.model import Refused

SETTINGS = {
    isolate.MAX_USER_NAMESPACES: "15000",
    isolate.UNPRIVILEGED_CLONE: "1",
    isolate.APPARMOR_RESTRICTS: "0",
}


@pytest.mark.parametrize(
    ("code", "settings", "says"),
    [
        (errno.EPERM, {isolate.APPARMOR_RESTRICTS: "1"}, "-w kernel.apparmor_restrict_unprivileged_userns=0"),
        (errno.EACCES, {isolate.APPARMOR_RESTRICTS: "1"}, "AppArmor"),
        (errno.ENOSPC, {isolate.MAX_USER_NAMESPACES: "0"}, "sysctl -w user.max_user_namespaces=15000"),
        (errno.EPERM, {isolate.UNPRIVILEGED_CLONE: "0"}, "sysctl -w kernel.unprivileged_userns_clone=1"),
        (errno.ENOSPC, {}, "too many namespaces"),
        (errno.EUSERS, {}, "too many namespaces"),
        (errno.EPERM, {}, "seccomp"),
        (errno.EPERM, {isolate.APPARMOR_RESTRICTS: "", isolate.UNPRIVILEGED_CLONE: ""}, "seccomp"),
        (errno.EINVAL, {}, "kernel"),
        (errno.ENOSPC, {isolate.APPARMOR_RESTRICTS: "1"}, "too many namespaces"),
        (errno.EIO, {}, "Input/output error"),
    ],
)
def test_each_cause_has_its_own_line_and_remedy(code: int, settings: dict[str, str], says: str):
    line = isolate.why_forbidden(code, lambda path: (SETTINGS | settings)[path])
    assert says in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EACCES, "sudo chmod 0666 /dev/net/tun"),
        (errno.ENOENT, "sudo modprobe tun"),
        (errno.ENODEV, "sudo modprobe tun"),
        (errno.EPERM, "--device /dev/net/tun"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_a_tun_device_out_of_reach_is_named_with_the_remedy(code: int, says: str):
    assert says in isolate.why_no_tun(code)


def test_a_missing_tun_device_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"there is no .*modprobe"):
        isolate.check_tun(str(tmp_path / "tun"))


def test_a_tun_device_that_opens_is_fine():
    isolate.check_tun(os.devnull)
