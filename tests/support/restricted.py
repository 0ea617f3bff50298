"""Runs a program where nobody may make a user namespace, as AppArmor on Ubuntu and many containers have it:

python restricted.py PROGRAM [ARGUMENT]...
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_NEW_USER = 0x10000000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
CALLS = {"x86_64": (435, 272, 56), "aarch64": (435, 97, 220)}  # clone3, unshare, clone


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def restrict() -> None:
    """This process and its children: unshare and clone with CLONE_NEWUSER are refused, clone3 is unknown."""
    clone3, unshare, clone = CALLS[os.uname().machine]
    code = [
        (_LOAD, 0, 0, 0),
        (_EQUAL, 6, 0, clone3),
        (_EQUAL, 1, 0, unshare),
        (_EQUAL, 0, 2, clone),
        (_LOAD, 0, 0, 16),
        (_ANY_BIT, 1, 0, _NEW_USER),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", op, yes, no, value) for op, yes, no, value in code))
    program = _Program(len(code), ctypes.cast(text, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.byref(program))):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    restrict()
    os.execvp(sys.argv[1], sys.argv[1:])
