# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The system calls a container runtime needs and Python 3.11 lacks. Each raises OSError on failure.

Paths and names are str (file system encoding, surrogateescape), or None where the call takes NULL. Nothing here
decides anything. The calls hold the GIL: they are made by single-threaded processes around a fork, or by
short-lived helpers.
"""
import os

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<sched.h>":
    int c_setns "setns"(int fd, int nstype)
    int c_unshare "unshare"(int flags)
    int c_NEWNS "CLONE_NEWNS"
    int c_NEWUTS "CLONE_NEWUTS"
    int c_NEWUSER "CLONE_NEWUSER"
    int c_NEWPID "CLONE_NEWPID"
    int c_NEWNET "CLONE_NEWNET"

cdef extern from "<sys/mount.h>":
    int c_mount "mount"(const char *source, const char *target, const char *fstype, unsigned long flags,
                        const void *data)
    int c_umount2 "umount2"(const char *target, int flags)
    unsigned long c_RDONLY "MS_RDONLY"
    unsigned long c_NOSUID "MS_NOSUID"
    unsigned long c_NODEV "MS_NODEV"
    unsigned long c_NOEXEC "MS_NOEXEC"
    unsigned long c_BIND "MS_BIND"
    unsigned long c_REC "MS_REC"
    unsigned long c_PRIVATE "MS_PRIVATE"
    int c_DETACH "MNT_DETACH"

cdef extern from "<sys/prctl.h>":
    int prctl(int option, ...)
    int PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_NAME
    int PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL

cdef extern from "<signal.h>":
    ctypedef struct sigset_t:
        pass
    int sigemptyset(sigset_t *mask)
    int sigaddset(sigset_t *mask, int signum)

cdef extern from "<sys/signalfd.h>":
    int c_signalfd "signalfd"(int fd, const sigset_t *mask, int flags)
    int SFD_CLOEXEC, SFD_NONBLOCK

cdef extern from "<unistd.h>":
    int c_sethostname "sethostname"(const char *name, size_t length)
    long syscall(long number, ...)

cdef extern from "<sys/syscall.h>":
    long SYS_capget, SYS_capset

cdef extern from "<linux/capability.h>":
    uint32_t _LINUX_CAPABILITY_VERSION_3
    struct __user_cap_header_struct:
        uint32_t version
        int pid
    struct __user_cap_data_struct:
        uint32_t effective
        uint32_t permitted
        uint32_t inheritable

CLONE_NEWNS = c_NEWNS
CLONE_NEWUTS = c_NEWUTS
CLONE_NEWUSER = c_NEWUSER
CLONE_NEWPID = c_NEWPID
CLONE_NEWNET = c_NEWNET
MS_RDONLY = c_RDONLY
MS_NOSUID = c_NOSUID
MS_NODEV = c_NODEV
MS_NOEXEC = c_NOEXEC
MS_BIND = c_BIND
MS_REC = c_REC
MS_PRIVATE = c_PRIVATE
MNT_DETACH = c_DETACH


cdef object _failed(object about=None):
    """Raise the OSError of errno, naming what it was about."""
    cdef int code = errno
    if about is None:
        raise OSError(code, os.strerror(code))
    raise OSError(code, os.strerror(code), about)


def setns(int fd, int nstype=0):
    """Enter the namespace of `fd` (setns(2)); for a pidfd, all kinds named by `nstype` at once."""
    if c_setns(fd, nstype) < 0:
        _failed()


def unshare(int flags):
    """Leave the namespaces named by `flags` for new ones (unshare(2))."""
    if c_unshare(flags) < 0:
        _failed()


def mount(source, target, fstype, unsigned long flags=0, data=None):
    """mount(2); `source`, `fstype` and `data` may be None."""
    cdef bytes target_bytes = os.fsencode(target)
    cdef bytes source_bytes = b"none" if source is None else os.fsencode(source)
    cdef bytes fstype_bytes = b"" if fstype is None else os.fsencode(fstype)
    cdef bytes data_bytes = b"" if data is None else os.fsencode(data)
    cdef const char *source_text = source_bytes
    cdef const char *fstype_text = NULL
    cdef const char *data_text = NULL
    if fstype is not None:
        fstype_text = fstype_bytes
    if data is not None:
        data_text = data_bytes
    if c_mount(source_text, target_bytes, fstype_text, flags, data_text) < 0:
        _failed(target)


def umount2(target, int flags=0):
    """umount2(2)."""
    cdef bytes target_bytes = os.fsencode(target)
    if c_umount2(target_bytes, flags) < 0:
        _failed(target)


def sethostname(name):
    """Set the host name of the current UTS namespace; at most 64 bytes."""
    cdef bytes name_bytes = os.fsencode(name)
    if c_sethostname(name_bytes, len(name_bytes)) < 0:
        _failed()


def set_parent_death_signal(int signum):
    """Be sent `signum` when the current parent process ends (PR_SET_PDEATHSIG); 0 clears it."""
    if prctl(PR_SET_PDEATHSIG, <unsigned long>signum, 0, 0, 0) < 0:
        _failed()


def set_child_subreaper(bint on):
    """Whether orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER)."""
    if prctl(PR_SET_CHILD_SUBREAPER, <unsigned long>on, 0, 0, 0) < 0:
        _failed()


def is_child_subreaper():
    """PR_GET_CHILD_SUBREAPER."""
    cdef int on = 0
    if prctl(PR_GET_CHILD_SUBREAPER, &on, 0, 0, 0) < 0:
        _failed()
    return on != 0


def set_no_new_privs():
    """From now on no exec gains privileges (PR_SET_NO_NEW_PRIVS); cannot be undone."""
    if prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0, 0, 0) < 0:
        _failed()


def set_process_name(name):
    """The name in /proc/PID/comm; the kernel keeps 15 bytes."""
    cdef bytes name_bytes = os.fsencode(name)
    cdef const char *name_text = name_bytes
    if prctl(PR_SET_NAME, name_text, 0, 0, 0) < 0:
        _failed()


def in_bounding_set(int capability):
    """Whether the capability is in the bounding set; False for a number this kernel does not know."""
    return prctl(PR_CAPBSET_READ, <unsigned long>capability, 0, 0, 0) == 1


def drop_bounding(int capability):
    """Remove one capability from the bounding set (needs CAP_SETPCAP)."""
    if prctl(PR_CAPBSET_DROP, <unsigned long>capability, 0, 0, 0) < 0:
        _failed()


def clear_ambient():
    """Empty the ambient set."""
    if prctl(PR_CAP_AMBIENT, <unsigned long>PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0:
        _failed()


def capget(int pid=0):
    """The (effective, permitted, inheritable) sets of a thread as bit masks; 0 = our own."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = pid
    if syscall(SYS_capget, &header, data) < 0:
        _failed()
    return (
        data[0].effective | (<uint64_t>data[1].effective << 32),
        data[0].permitted | (<uint64_t>data[1].permitted << 32),
        data[0].inheritable | (<uint64_t>data[1].inheritable << 32),
    )


def capset(uint64_t effective, uint64_t permitted, uint64_t inheritable):
    """Set our own capability sets from bit masks."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    cdef int word
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    for word in range(2):
        data[word].effective = <uint32_t>(effective >> (32 * word))
        data[word].permitted = <uint32_t>(permitted >> (32 * word))
        data[word].inheritable = <uint32_t>(inheritable >> (32 * word))
    if syscall(SYS_capset, &header, data) < 0:
        _failed()


def signalfd(signals):
    """A non-blocking close-on-exec descriptor that queues `signals`; the caller blocks them."""
    cdef sigset_t mask
    cdef int signum, fd
    sigemptyset(&mask)
    for signum in signals:
        if sigaddset(&mask, signum) < 0:
            _failed()
    fd = c_signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK)
    if fd < 0:
        _failed()
    return fd
