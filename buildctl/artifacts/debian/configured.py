"""What the maintainer scripts of Debian 12 to 14 would have done to a fresh system, as data.

Every function names the package whose script it stands for. Left out on purpose: systemd units being enabled (nothing
starts them in a container), debconf's database (made on first use), the diversions of the merge of /usr (they guard an
upgrade from an older Debian), /etc/hosts, /etc/hostname and /etc/resolv.conf (the container runtime's).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from buildctl.artifacts.debian.certificates import SOURCE, certificate_entries
from buildctl.ground.errors import ArtifactError
from buildctl.matrix.account import HOME, UID, USER
from buildctl.oci.entry import Entry, Kind, directory_entry, file_entry, symlink_entry

MAIL, SHADOW, UTMP = 8, 42, 43

# Part of the key of a base's layer: another number where the same packages give other entries.
VERSION = 3
# Whose scripts' work this module, its neighbours and the tree as a whole do. Those of any other package are followed.
_KNOWN = frozenset(
    """
    adduser apt base-files base-passwd bash binutils ca-certificates coreutils cpp dash debconf debian-archive-keyring
    debianutils dpkg g++ gcc gzip init-system-helpers libc-bin libc6 libcrypt-dev libgcrypt20 libgssapi-krb5-2
    libpam-modules libpam-modules-bin libpam-runtime libpam0g libreadline8 libreadline8t64 libselinux1 login login.defs
    mawk netbase openssl passwd perl perl-base procps readline-common tar tzdata usrmerge util-linux util-linux-extra
    """.split()  # noqa: SIM905 - one line for each would be 48
)
_PYTHON = re.compile(r"(lib)?python3(\.[0-9]+)?(-minimal|-stdlib)?")
# Our own: /etc/profile sets PATH from scratch, without the programs that `pip install --user` installs.
LOGIN_PATH = b"""\
# A login shell finds the programs that `pip install --user` installs, as every other process in the image does.
case ":$PATH:" in
*":${HOME:-}/.local/bin:"*) ;;
*) PATH="${HOME:-}/.local/bin:$PATH" ;;
esac
"""

Read = Callable[[str], bytes]


def is_configured(package: str) -> bool:
    """Whether the work of the scripts of `package` is done without following them."""
    return package in _KNOWN or _PYTHON.fullmatch(package) is not None


def configured_entries(
    files: Mapping[str, Entry], read: Read, *, packages: Sequence[str], python: str
) -> Iterator[Entry]:
    """`files` is the tree as unpacked, `read` gives the content of one of its files."""
    yield from _base_files(read)
    yield file_entry("etc/profile.d/local-bin.sh", LOGIN_PATH)
    yield from _accounts(read)
    yield from _shells(files, read)
    yield from _pam(read)
    yield from _python(python)
    yield from _copies(files, read)
    yield from _certificates(files, read)
    if "tzdata" in packages:
        yield symlink_entry("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")


def _base_files(read: Read) -> Iterator[Entry]:
    yield symlink_entry("etc/dpkg/origins/default", "debian")
    for source, target in (
        ("dot.profile", "root/.profile"),
        ("dot.bashrc", "root/.bashrc"),
        ("profile", "etc/profile"),
    ):
        yield file_entry(target, read(f"usr/share/base-files/{source}"))
    yield file_entry("etc/motd", read("usr/share/base-files/motd"))
    for path in ("mnt", "srv", "opt", "etc/opt", "var/opt", "media"):
        yield directory_entry(path)
    yield directory_entry("var/mail", mode=0o2775, gid=MAIL)
    yield directory_entry("run/lock", mode=0o1777)
    yield symlink_entry("var/spool/mail", "../mail")
    yield symlink_entry("var/run", "/run")
    yield symlink_entry("var/lock", "/run/lock")
    for name in ("", "/share", "/share/man", "/bin", "/games", "/lib", "/libexec", "/include", "/sbin", "/src", "/etc"):
        yield directory_entry(f"usr/local{name}")
    yield symlink_entry("usr/local/man", "share/man")
    yield directory_entry("usr/local/share/ca-certificates")
    for name, mode in (("wtmp", 0o664), ("btmp", 0o660), ("lastlog", 0o664)):
        yield replace(file_entry(f"var/log/{name}", b"", mode=mode), gid=UTMP)
    yield file_entry("etc/fstab", b"# UNCONFIGURED FSTAB FOR BASE SYSTEM\n")
    yield file_entry("etc/environment", b"")
    yield file_entry("etc/networks", b"default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n\n")


def _accounts(read: Read) -> Iterator[Entry]:
    """base-passwd's masters with the images' own user; shadow files with every password locked."""
    passwd = read("usr/share/base-passwd/passwd.master").decode()
    group = read("usr/share/base-passwd/group.master").decode()
    passwd = re.sub(r"^([^:]+):\*:", r"\1:x:", passwd, flags=re.MULTILINE)
    group = re.sub(r"^([^:]+):\*:", r"\1:x:", group, flags=re.MULTILINE)
    passwd += f"{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n"
    group += f"{USER}:x:{UID}:\n"
    yield file_entry("etc/passwd", passwd.encode())
    yield file_entry("etc/group", group.encode())
    # No day of the last change: it would be the day of the build, and nothing ages here.
    shadow = "".join(f"{name}:*::0:99999:7:::\n" for name in _names(passwd))
    gshadow = "".join(f"{name}:*::\n" for name in _names(group))
    yield replace(file_entry("etc/shadow", shadow.encode(), mode=0o640), gid=SHADOW)
    yield replace(file_entry("etc/gshadow", gshadow.encode(), mode=0o640), gid=SHADOW)
    for name in ("subuid", "subgid"):
        yield file_entry(f"etc/{name}", b"")
    home = HOME.lstrip("/")
    # it and /workspace are open to any user: images are also run with `--user 4711`.
    yield directory_entry(home, mode=0o1777, uid=UID, gid=UID)
    for name in (".bashrc", ".profile", ".bash_logout"):
        yield replace(file_entry(f"{home}/{name}", read(f"etc/skel/{name}")), uid=UID, gid=UID)
    yield directory_entry("workspace", mode=0o1777, uid=UID, gid=UID)


def _names(accounts: str) -> list[str]:
    return [line.partition(":")[0] for line in accounts.splitlines()]


def _shells(files: Mapping[str, Entry], read: Read) -> Iterator[Entry]:
    """What update-shells of debianutils does: the declared shells, each under its merged name (/usr/bin) as well."""
    folder = "usr/share/debianutils/shells.d/"
    declared = sorted(p for p in files if p.startswith(folder) and files[p].kind is Kind.FILE)
    master = read("usr/share/debianutils/shells").decode()
    known = [line for line in master.splitlines() if line.startswith("/")]
    shells: list[str] = []
    for text in (master, *(read(path).decode() for path in declared)):
        for shell in (line.partition("#")[0] for line in text.splitlines()):
            merged = f"/usr{shell}" if shell.startswith("/bin/") else shell
            shells += [name for name in dict.fromkeys((shell, merged)) if name and name not in shells]
    added = "".join(f"{shell}\n" for shell in shells if shell not in known)
    yield file_entry("etc/shells", (master + added).encode())
    yield file_entry("var/lib/shells.state", "".join(f"{shell}\n" for shell in shells).encode())


def _pam(read: Read) -> Iterator[Entry]:
    """libpam-runtime's pam-auth-update with the one profile that is on by default, `unix`."""
    profile = _profile(read("usr/share/pam-configs/unix").decode())
    for file in ("auth", "account", "password", "session", "session-noninteractive"):
        kind = file.partition("-")[0]
        module = profile.get(f"{kind.capitalize()}-Initial") or profile[kind.capitalize()]
        primary = profile[f"{kind.capitalize()}-Type"] == "Primary"
        line = f"{kind}\t{module.replace('success=end', 'success=1')}{' ' if module.endswith('.so') else ''}\n"
        template = read(f"usr/share/pam/common-{file}").decode()
        text = _pam_block(template, "primary", line if primary else f"{kind}\t{NO_MODULE}")
        text = _pam_block(text, "additional", "" if primary else line)
        yield file_entry(f"etc/pam.d/common-{file}", text.encode())
        record = f"Module: unix\n{module}\n"
        if not primary:
            record = f"Module: null\n{NO_MODULE}{record}"
        yield file_entry(f"var/lib/pam/{file}", record.encode())
    yield file_entry("var/lib/pam/seen", b"unix\nmkhomedir\n")
    yield file_entry("etc/security/opasswd", b"", mode=0o600)


NO_MODULE = "[default=1]\t\t\tpam_permit.so\n"


def _pam_block(template: str, block: str, lines: str) -> str:
    """Raises ArtifactError unless the template has exactly one variable for `block`."""
    text, count = re.subn(rf"^\$[a-z_]+_{block}\n", lambda _: lines, template, flags=re.MULTILINE)
    if count != 1:
        raise ArtifactError(f"libpam-runtime: a template has {count} variables for its {block} block, not one")
    return text


def _profile(text: str) -> dict[str, str]:
    """The fields of a PAM profile; a value on indented lines below its key counts like one beside it."""
    fields: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if line[:1] in ("\t", " "):
            fields[key] = (fields[key] + "\n" + line.strip()).strip()
        elif line:
            key, _, value = line.partition(":")
            fields[key] = value.strip()
    return fields


def _python(python: str) -> Iterator[Entry]:
    yield directory_entry(f"usr/local/lib/python{python}")
    yield directory_entry(f"usr/local/lib/python{python}/dist-packages")
    yield directory_entry("etc/python3")
    config = "[DEFAULT]\n# how to byte-compile (comma separated: standard, optimize)\nbyte-compile = standard\n"
    yield file_entry("etc/python3/debian_config", config.encode())


def _copies(files: Mapping[str, Entry], read: Read) -> Iterator[Entry]:
    """Defaults that libc-bin and readline-common copy into /etc."""
    defaults = {"usr/share/libc-bin/nsswitch.conf": "etc/nsswitch.conf", "usr/share/readline/inputrc": "etc/inputrc"}
    for source, target in defaults.items():
        if source in files:
            yield file_entry(target, read(source))


def _certificates(files: Mapping[str, Entry], read: Read) -> Iterator[Entry]:
    found = [p for p in files if p.startswith(f"{SOURCE}/") and p.endswith(".crt") and files[p].kind is Kind.FILE]
    yield from certificate_entries({p.removeprefix(f"{SOURCE}/"): read(p) for p in found})
