# SPDX-License-Identifier: Apache-2.0
"""Foreground containers: real namespaces, as root and as an ordinary user."""
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mini_containers import PYTHON, Containers, alive, namespace_is_in_use, until
from mini_run import FILES

pytestmark = pytest.mark.root

DOCKER_MASK = "00000000a80425fb"  # what `docker run alpine grep Cap /proc/self/status` shows
WAIT_FOR_A_SIGNAL = (
    "import signal, sys\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
    "print('ready', flush=True)\n"
    "print(int(signal.sigwait(signal.valid_signals() - {signal.SIGCHLD})), flush=True)\n"
)


ENDS = [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]


@pytest.mark.parametrize(("script", "status"), ENDS)
def test_the_exit_status_is_the_programs_own(containers: Containers, script: str, status: int):
    assert containers.run("sh", "-c", script).returncode == status


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("no-such-program", 127, "no-such-program: not found in PATH"),
        ("/no/such/program", 127, "/no/such/program: No such file or directory"),
        ("", 127, "an empty name is no program"),
        ("/etc/hosts", 126, "/etc/hosts: Permission denied"),
        ("/etc", 126, "/etc: Permission denied"),
        ("shadow", 126, "/etc/shadow: Permission denied"),
    ],
)
def test_a_program_that_is_missing_or_not_runnable_gives_127_or_126(by_root, command, status, says):
    done = by_root.run(command, env={"PATH": "/no/such/folder:/usr/bin:/bin:/etc"})
    assert done.returncode == status
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_a_script_without_an_interpreter_line_gives_126(by_root: Containers):
    script = Path(by_root.path("script"))
    script.write_text("echo no\n")
    script.chmod(0o755)
    done = by_root.run(str(script))
    assert (done.returncode, done.stderr) == (126, f"vswitch: {script}: Exec format error\n")


def test_a_script_whose_interpreter_is_missing_gives_127(by_root: Containers):
    script = Path(by_root.path("script"))
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = by_root.run(str(script))
    assert done.returncode == 127
    assert done.stderr == f"vswitch: {script} is there, but what it needs to run is not\n"


def test_folders_of_path_that_we_may_not_see_are_passed_over(as_ordinary: Containers):
    closed = Path(as_ordinary.path("closed"))
    closed.mkdir(mode=0o700)
    assert as_ordinary.output("true", env={"PATH": f"{closed}:/usr/bin:/bin"}) == ""
    assert as_ordinary.run("no-such-program", env={"PATH": f"{closed}:/bin"}).returncode == 127


def test_a_working_directory_is_entered_or_named_as_missing(by_root: Containers):
    assert by_root.output("pwd", workdir="/usr/lib") == "/usr/lib\n"
    done = by_root.run("pwd", workdir="/no/such/folder")
    assert done.returncode == 126
    assert done.stderr == "vswitch: working directory /no/such/folder: No such file or directory\n"


def test_an_empty_command_is_refused(by_root: Containers):
    done = by_root.run()
    assert (done.returncode, done.stderr) == (125, "mini_run: there is no command to run\n")


def test_arguments_and_environment_arrive_byte_for_byte(by_root: Containers):
    odd = os.fsdecode(b"a\xff b\n'\"\xc3\xa4")
    script = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]) + os.environb[b'ODD'])"
    done = by_root.run(
        sys.executable, "-c", script, odd, env={"ODD": odd, "PATH": os.environ["PATH"]}, popen={"text": False}
    )
    assert done.stdout == os.fsencode(odd) * 2


def test_an_environment_larger_than_a_socket_buffer_arrives(by_root: Containers):
    assert by_root.output("sh", "-c", 'echo "${#BIG0} ${#BIG9}"', big=10) == "100000 100000\n"


def test_host_name_and_files_are_the_containers_own(containers: Containers):
    before = [Path(path).read_text() for path in ("/etc/resolv.conf", "/etc/hosts")]
    script = "cat /etc/resolv.conf /etc/hosts; hostname; echo $HOSTNAME; cat /proc/sys/kernel/hostname"
    assert containers.output("sh", "-c", script) == FILES.resolv_conf + FILES.hosts + "box\n" * 3
    assert [Path(path).read_text() for path in ("/etc/resolv.conf", "/etc/hosts")] == before
    assert socket.gethostname() != "box"


def test_hostname_in_the_environment_is_the_containers_unless_given(by_root: Containers):
    outer = {"env": by_root.environment() | {"HOSTNAME": "outer"}}
    assert by_root.output("printenv", "HOSTNAME", popen=outer) == "box\n"
    path = {"PATH": os.environ["PATH"]}
    assert by_root.output("printenv", "HOSTNAME", env=path, popen=outer) == "box\n"
    given = path | {"HOSTNAME": "given"}
    assert by_root.output("printenv", "HOSTNAME", env=given, popen=outer) == "given\n"


def test_it_sees_its_own_processes_and_network_devices_only(containers: Containers):
    script = "echo /proc/[0-9]*; ls /sys/class/net; ls -d /sys/fs/cgroup/*; cat /proc/1/comm; echo $$"
    processes, device, *cgroups, init, pid = containers.output("sh", "-c", script).splitlines()
    assert processes == "/proc/1 /proc/2"
    assert (device, init, pid) == ("lo", "vswitch-init", "2")
    assert sorted(cgroups) == sorted(str(path) for path in Path("/sys/fs/cgroup").iterdir())


def test_mounts_go_neither_way(by_root: Containers):
    script = (
        "set -e; mount -t tmpfs outside /mnt;"
        ' "$@"; grep -c " /mnt " /proc/self/mounts; grep " /proc \\| /sys " /proc/self/mounts | wc -l'
    )
    within = "mount -t tmpfs inside /mnt && grep -c ' /mnt ' /proc/self/mounts"
    command = by_root.command("sh", "-c", within, cap_add=["SYS_ADMIN"])
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "shared", "sh", "-c", script, "sh", *command],
        capture_output=True, text=True, env=by_root.environment(),
    )  # fmt: skip
    assert done.stdout == "2\n1\n2\n", done.stderr


def test_root_has_dockers_capabilities(containers: Containers):
    lines = containers.output("grep", "Cap", "/proc/self/status").split()
    assert lines == [
        "CapInh:", "0" * 16, "CapPrm:", DOCKER_MASK, "CapEff:", DOCKER_MASK, "CapBnd:", DOCKER_MASK,
        "CapAmb:", "0" * 16,
    ]  # fmt: skip


def test_capabilities_are_added_and_dropped(containers: Containers):
    assert containers.output("ip", "link", "set", "lo", "up", cap_add=["net_admin"]) == ""
    assert containers.run("ip", "link", "set", "lo", "up").returncode == 2
    none = containers.output("grep", "-E", "Cap(Prm|Bnd)", "/proc/self/status", cap_drop=["ALL"]).split()
    assert none == ["CapPrm:", "0" * 16, "CapBnd:", "0" * 16]


def test_no_descriptor_leaks_in(containers: Containers):
    leaked = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    os.dup2(leaked[0], 77)
    try:
        done = containers.run("sh", "-c", "ls /proc/$$/fd; :", popen={"pass_fds": [*leaked, 77]})
    finally:
        for fd in [*leaked, 77]:
            os.close(fd)
    assert done.stdout.split() == ["0", "1", "2"]


def test_init_keeps_no_descriptor_of_the_users(containers: Containers):
    process = containers.start("sleep", "60")
    fds = Path(f"/proc/{process.info['pid']}/fd")
    until(lambda: os.readlink(fds / "1") == "/dev/null", "letting go")
    links = sorted(link for fd in fds.iterdir() if (link := os.readlink(fd).split(":")[0]) != "/dev/null")
    assert links == ["anon_inode", "socket"]


def test_closed_standard_streams_are_no_trouble(by_root: Containers):
    command = by_root.command("sh", "-c", "echo lost; ls -l /proc/$$/fd >&2; exit 4")
    done = subprocess.run(["sh", "-c", '"$@" <&- >&-', "sh", *command], stderr=subprocess.PIPE, text=True,
                          env=by_root.environment())  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.count("/dev/null") == 2


def test_signals_have_default_dispositions(containers: Containers):
    status = containers.output("cat", "/proc/self/status", popen={"preexec_fn": _defaults})
    shown = dict(line.split(":\t", 1) for line in status.splitlines())
    assert [shown[name] for name in ("SigBlk", "SigIgn", "SigCgt")] == ["0" * 16] * 3


def _defaults() -> None:
    """However this test run was started: `a &` in a script leaves SIGINT and SIGQUIT ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def test_what_nohup_ignores_stays_ignored(by_root: Containers):
    nohup = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    ignored = by_root.output("grep", "SigIgn", "/proc/self/status", popen=nohup)
    assert int(ignored.split()[1], 16) & 1 << (signal.SIGHUP - 1)


FORWARDED = ["TERM", "INT", "HUP", "USR1", "USR2", "WINCH", "QUIT", "ALRM", "RTMIN"]


@pytest.mark.parametrize("name", FORWARDED)
def test_signals_to_the_supervisor_reach_the_program(by_root: Containers, name: str):
    number = getattr(signal, f"SIG{name}")
    process = by_root.start(sys.executable, "-c", WAIT_FOR_A_SIGNAL, popen={"preexec_fn": _defaults})
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"{int(number)}\n"
    assert process.wait(10) == 0


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "HUP"])
def test_signals_to_pid_1_reach_the_program(containers: Containers, name: str):
    number = getattr(signal, f"SIG{name}")
    process = containers.start(PYTHON, "-c", WAIT_FOR_A_SIGNAL)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.info["pid"], number)
    assert process.stdout.readline() == f"{int(number)}\n"
    assert process.wait(10) == 0


def test_a_program_that_a_signal_ends_gives_128_and_the_signal(containers: Containers):
    process = containers.start("sleep", "60", popen={"preexec_fn": _defaults})
    _wait_for_program(process)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM


def test_kill_9_of_pid_1_gives_137(containers: Containers):
    process = containers.start("sleep", "60")
    _wait_for_program(process)
    os.kill(process.info["pid"], signal.SIGKILL)
    assert process.wait(10) == 137


def _wait_for_program(process: subprocess.Popen) -> int:
    """The pid, as the host sees it, of the first program in a container."""
    children = Path(f"/proc/{process.info['pid']}/task/{process.info['pid']}/children")

    def executed() -> int:
        pids = children.read_text().split()
        return int(pids[0]) if pids and "mini_run" not in Path(f"/proc/{pids[0]}/cmdline").read_text() else 0

    return until(executed, "the program")


def test_orphans_are_reaped(containers: Containers):
    script = (
        "for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'exit 3' & ); done; i=0;"
        "while set -- /proc/[0-9]*; [ $# -gt 2 ]; do"
        "  i=$((i+1)); [ $i -lt 500 ] || { cat /proc/[0-9]*/status; exit 1; }; sleep 0.01; done"
    )
    assert containers.output("sh", "-c", script) == ""


def test_the_end_of_the_first_process_ends_all(containers: Containers):
    script = "(trap '' TERM HUP; setsid sleep 60 &); echo started; read line; exit 6"
    process = containers.start("sh", "-c", script)
    assert process.stdout.readline() == "started\n"
    inode = process.info["inode"]
    assert namespace_is_in_use(inode)
    process.communicate("end\n", timeout=10)
    assert process.returncode == 6
    assert not namespace_is_in_use(inode)


def test_kill_9_of_the_supervisor_leaves_nothing_behind(containers: Containers):
    script = "trap '' TERM HUP INT; (setsid sleep 60 &); echo started; sleep 60; :"
    process = containers.start("sh", "-c", script)
    assert process.stdout.readline() == "started\n"
    pid, inode = process.info["pid"], process.info["inode"]
    os.kill(process.info["supervisor"], signal.SIGKILL)
    until(lambda: not alive(pid), "the end of PID 1")
    until(lambda: not namespace_is_in_use(inode), "the end of the namespace")


def test_kill_9_before_the_program_starts_leaves_nothing_behind(containers: Containers):
    fifo = containers.path("fifo")
    os.mkfifo(fifo)
    os.chmod(fifo, 0o666)
    process = containers.start("true", wait_for=fifo)
    os.kill(process.info["supervisor"], signal.SIGKILL)
    until(lambda: not alive(process.info["pid"]), "the end of PID 1")
    assert not namespace_is_in_use(process.info["inode"])


@pytest.mark.parametrize("detached", [False, True])
def test_abort_leaves_nothing_behind(containers: Containers, detached: bool):
    info = containers.path("info")
    process = containers.start("true", info=info, abort=True, detached=detached)
    assert process.wait(10) == 0
    assert not alive(process.info["pid"])
    assert not namespace_is_in_use(process.info["inode"])


def test_on_exit_is_told_once_with_the_tag(containers: Containers):
    report = containers.path("report")
    assert containers.run("sh", "-c", "exit 9", report=report).returncode == 9
    assert '"tag": "mini", "exit_code": 9' in Path(report).read_text()
    failed = containers.path("report")
    assert containers.run("no-such-program", report=failed).returncode == 127
    assert '"exit_code": 127' in Path(failed).read_text()


def test_a_report_that_fails_does_not_hide_the_exit_status(by_root: Containers):
    done = by_root.run("sh", "-c", "exit 9", report_fails=True)
    assert done.returncode == 9
    assert done.stderr == "vswitch: exit status 9 could not be reported: the daemon is gone\n"


def test_the_origin_finds_the_namespace_again(containers: Containers):
    from vswitch.container import namespaces

    process = containers.start("sleep", "60")
    pid = process.info["pid"]
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == process.info["inode"]
    assert namespaces.pid_started(pid) == process.info["started"]
    assert process.info["userns"] is containers.rootless


def test_ping_works_within(containers: Containers):
    script = "until [ -e %s ]; do sleep 0.01; done; ping -c 1 -W 5 127.0.0.1"
    flag = containers.path("flag")
    process = containers.start("sh", "-c", script % flag)
    _wait_for_program(process)
    enter = ["nsenter", "-t", str(process.info["pid"]), "-n", "--preserve-credentials"]
    enter += ["-U"] if containers.rootless else []
    subprocess.run([*containers.prefix, *enter, "ip", "link", "set", "lo", "up"], check=True)
    Path(flag).touch()
    out, errors = process.communicate(timeout=15)
    assert process.returncode == 0, out + errors


def test_unprivileged_ping_sockets_are_allowed(containers: Containers):
    script = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)"
    assert containers.output(PYTHON, "-c", script, cap_drop=["ALL"]) == ""


def test_the_hosts_name_caches_are_out_of_reach(by_root: Containers):
    connect = (
        "import socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try: socket.socket(socket.AF_UNIX).connect(path)\n"
        "    except ConnectionRefusedError: print('refused')\n"
    )
    outside = (
        "import os, socket, subprocess, sys\n"
        "paths = ['/run/nscd/socket', '/run/systemd/resolve/io.systemd.Resolve']\n"
        "for path in paths:\n"
        "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
        "    keep = socket.socket(socket.AF_UNIX); keep.bind(path); keep.listen(); globals()[path] = keep\n"
        "socket.socket(socket.AF_UNIX).connect(paths[0])\n"
        "sys.exit(subprocess.run(sys.argv[1:] + paths).returncode)\n"
    )
    command = by_root.command(sys.executable, "-c", connect)
    done = _with_other_folders(by_root, [sys.executable, "-c", outside, *command])
    assert done.stdout == "refused\n" * 2, done.stderr


def test_a_resolv_conf_that_is_a_symlink_is_covered_where_it_leads(containers: Containers):
    script = (
        "mkdir /run/vt; echo original >/run/vt/stub.conf; ln -s ../run/vt/stub.conf /etc/resolv.conf;"
        ' echo h >/etc/hosts; "$@"; cat /run/vt/stub.conf'
    )
    command = containers.command("cat", "/etc/resolv.conf", "/run/vt/stub.conf", "/etc/hosts")
    done = _with_other_folders(containers, ["sh", "-c", script, "sh", *command])
    assert done.stdout == FILES.resolv_conf * 2 + FILES.hosts + "original\n", done.stderr
    assert done.stderr == ""


def test_a_missing_resolv_conf_is_a_warning_and_not_made(containers: Containers):
    command = containers.command("cat", "/etc/hosts")
    script = 'ln -s nowhere /etc/resolv.conf; echo h >/etc/hosts; "$@"; ls /etc'
    done = _with_other_folders(containers, ["sh", "-c", script, "sh", *command])
    assert done.stdout == FILES.hosts + "hosts\nresolv.conf\n"
    assert done.stderr == (
        "vswitch: /etc/resolv.conf cannot be covered (No such file or directory): "
        "make it on the host, an empty file will do\n"
    )


def _with_other_folders(containers: Containers, command: list[str]) -> subprocess.CompletedProcess:
    """Run where /etc and /run are empty."""
    script = 'mount -t tmpfs t /etc && mount -t tmpfs t /run && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        capture_output=True, text=True, env=containers.environment(), timeout=30,
    )  # fmt: skip


def test_it_runs_where_proc_is_partly_covered_and_says_so(as_ordinary: Containers):
    """As inside Docker, where the kernel refuses a new /proc to a user namespace."""
    script = 'mount -t tmpfs t /proc/irq && mount -t tmpfs t /sys/kernel && exec "$@"'
    command = as_ordinary.command("sh", "-c", "cat /etc/hosts; exit 3")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        capture_output=True, text=True, env=as_ordinary.environment(), timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, FILES.hosts), done.stderr
    assert done.stderr.splitlines() == [
        "vswitch: /proc stays the host's: this system does not allow a new one here",
        "vswitch: /sys stays the host's: this system does not allow a new one here",
    ]


def test_forbidden_user_namespaces_are_named_with_the_remedy(by_root: Containers):
    """A limit of 0 set for an outer user namespace counts for what is in it."""
    script = "echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "
    script += '"$@"'
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", script, "sh", *by_root.command("true")],
        capture_output=True, text=True, env=by_root.environment(),
    )  # fmt: skip
    assert done.returncode == 125
    assert done.stderr == (
        "mini_run: user namespaces are switched off (user.max_user_namespaces = 0): "
        "sudo sysctl -w user.max_user_namespaces=15000 (or run this as root)\n"
    )


def test_starting_imports_nothing_heavy():
    script = (
        "import sys, vswitch.container.launch, vswitch.container.join, vswitch.container.files\n"
        "heavy = ('asyncio', 'aiohttp', 'pyroute2', 'rich', 'ssl', 'subprocess', 'logging')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


