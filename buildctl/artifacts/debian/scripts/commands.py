"""What the maintainer scripts of added Debian packages would do to a fresh system, as data; no script is run.

`shell` follows each script; this module defines what its commands do to the tree. An unknown command is an
ArtifactError, so that nothing is silently skipped. Left out on purpose, as in `debian.configured`: units and init
scripts being enabled (nothing starts them in a container), and caches that programs do without.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from buildctl.artifacts.debian.alternatives import Alternative
from buildctl.artifacts.debian.deb import Deb
from buildctl.artifacts.debian.scripts.debconf import Debconf
from buildctl.artifacts.debian.scripts.shell import Answer, Call, Shell
from buildctl.artifacts.debian.scripts.tree import append_line, evaluate, find, lines_of
from buildctl.artifacts.debian.scripts.words import ScriptError
from buildctl.ground.errors import ArtifactError
from buildctl.matrix.account import PATH
from buildctl.oci.entry import Entry, Kind, capability, directory_entry, file_entry, symlink_entry

# Programs whose work is left out, whatever their arguments.
LEFT_OUT = frozenset(
    {
        "deb-systemd-helper",
        "deb-systemd-invoke",
        "dpkg-maintscript-helper",  # moves files of older versions: nothing to do on a fresh system
        "fc-cache",  # fontconfig reads the fonts themselves where there is no cache
        "gio-querymodules",  # so does GIO with its modules
        "invoke-rc.d",
        "ldconfig",  # the cache is made for the whole tree
        "systemctl",
        "update-rc.d",
    }
)
# Where it matters to some programs: said at lock time.
NOTED: Mapping[str, str] = {
    "gdk-pixbuf-query-loaders": "gdk-pixbuf reads only the formats that are built in",
    "update-mime-database": "the database of file types is not made: GTK programs recognise files by it",
}
WAY_OUT = (
    "`buildctl lock --record-scripts` runs it once, in a sandbox, and locks what it does (docs/debian.md); or put it "
    "into a template (`RUN apt-get update && apt-get install ...`) and build with --engine docker (docs/templates.md)"
)


class UnknownScriptError(ArtifactError):
    """A script does more than is known without running it; it can be recorded."""


FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")


@dataclass(slots=True, kw_only=True)
class Effects:
    """What the scripts of all added packages have done. `tree` is changed in place; `base` are the base's own paths."""

    arch: str
    tree: dict[str, Entry]
    base: frozenset[str]
    packages: frozenset[str]
    alternatives: list[Alternative] = field(default_factory=list)
    compiled: set[str] = field(default_factory=set)
    notes: dict[str, None] = field(default_factory=dict)


class Scripts:
    """The scripts of one package, and what their commands do."""

    def __init__(self, deb: Deb, done: Effects) -> None:
        self.deb, self.control, self.done = deb, deb.control, done
        self.debconf = Debconf.of(deb.control)

    def run(self, name: str, *arguments: str) -> None:
        data = self.control.files.get(name)
        if data is None or (name == "config" and "templates" not in self.control.files):
            return
        package = self.control.package
        environment = {
            "0": f"/var/lib/dpkg/info/{package}.{name}",
            "DPKG_MAINTSCRIPT_NAME": name,
            "DPKG_MAINTSCRIPT_PACKAGE": package,
            "DPKG_MAINTSCRIPT_ARCH": self.done.arch,
            "DEBIAN_FRONTEND": "noninteractive",
            "PATH": PATH,
        }
        try:
            shell = Shell(answer=self.answer, skips=_is_left_out)
            shell.run_script(data.decode("utf-8", "replace"), arguments, environment)
        except ScriptError as error:
            raise UnknownScriptError(
                f"{package} {self.control.version}: its {name} script does more than is known without running it "
                f"(line {error.line}: {error.text})",
                hint=WAY_OUT,
            ) from error

    def answer(self, call: Call, shell: Shell) -> Answer:
        name = call.argv[0].rpartition("/")[2]
        if _is_left_out(name):
            if name in NOTED:
                self.done.notes[f"{self.control.package}: {NOTED[name]}"] = None
            return Answer()
        if any(output != "/dev/null" for output in call.outputs):
            raise call.problem(f"{shlex.join(call.argv)[:100]} writes to {', '.join(call.outputs)}")
        if name.startswith("db_"):
            return self.debconf.answer(call, shell)
        handler = getattr(self, _METHODS.get(name, ""), None)
        if handler is None:
            raise call.problem()
        found: Answer = handler(call)
        return found

    # ------------------------------------------------------------------------------------------------- looking around

    def find(self, path: str, *, follow: bool = True) -> tuple[str, Entry | None]:
        return find(self.done.tree, path, follow=follow)

    def path(self, call: Call, path: str) -> str:
        if not path.startswith("/") or path.startswith(("/proc/", "/sys/", "/dev/")):
            raise call.problem(f"{shlex.join(call.argv)[:100]}: a path outside the image")
        return path

    def program(self, name: str) -> str | None:
        """The absolute path of a program, as `command -v` prints it."""
        folders = [""] if name.startswith("/") else [f"/{folder}/" for folder in FOLDERS]
        return next((f"{f}{name}" for f in folders if self.find(f"{f}{name}")[1] is not None), None)

    def command(self, call: Call) -> Answer:
        match call.argv[1:]:
            case ("-v" | "-V", name) | (name,) if not name.startswith("-"):
                found = self.program(name)
                return Answer(0, f"{found}\n") if found else Answer(1)
            case _:
                raise call.problem()

    def test(self, call: Call) -> Answer:
        words = list(call.argv[1:])
        if call.argv[0] == "[" and (not words or words.pop() != "]"):
            raise call.problem()
        found = evaluate(words, lambda path, follow: self.find(self.path(call, path), follow=follow)[1])
        if found is None:
            raise call.problem()
        return Answer(int(not found))

    def dpkg(self, call: Call) -> Answer:
        match call.argv[1:]:
            case ("--compare-versions", "", operator, other) if other:
                return Answer(int(operator not in {"lt", "le", "ne", "ge-nl", "gt-nl"}))
            case ("--print-architecture",):
                return Answer(0, f"{self.done.arch}\n")
            case ("-L" | "--listfiles", name) if name == self.control.package:
                return Answer(0, "".join(f"{path}\n" for path in self.deb.names))
            case _:
                raise call.problem()

    def dpkg_query(self, call: Call) -> Answer:
        names = [word for word in call.argv[1:] if not word.startswith("-") and "$" not in word]
        if len(names) == 1 and names[0].partition(":")[0] not in self.done.packages:
            return Answer(1)
        raise call.problem()

    def statoverride(self, call: Call) -> Answer:
        if "--list" not in call.argv or "--add" in call.argv:
            raise call.problem()
        return Answer(1)

    def getent(self, call: Call) -> Answer:
        match call.argv[1:]:
            case (("passwd" | "group") as file, name):
                lines = lines_of(self.done.tree, f"etc/{file}")
                found = [line for line in lines if line.partition(":")[0] == name or line.split(":")[2] == name]
                return Answer(0, f"{found[0]}\n") if found else Answer(2)
            case _:
                raise call.problem()

    # -------------------------------------------------------------------------------------------------- changing things

    def alternatives(self, call: Call) -> Answer:
        words = [word for word in call.argv[1:] if word not in {"--quiet", "--force"}]
        match words:
            case ("--install", link, name, path, priority, *rest) if not len(rest) % 4 and set(rest[::4]) <= {
                "--slave"
            }:
                slaves = tuple((rest[i + 2], rest[i + 1], rest[i + 3]) for i in range(0, len(rest), 4))
                self.done.alternatives.append(
                    Alternative(
                        package=self.control.package,
                        name=name,
                        link=link,
                        path=path,
                        priority=int(priority),
                        slaves=slaves,
                    )
                )
                return Answer()
            case ("--remove", name, path) if (name, path) not in {(a.name, a.path) for a in self.done.alternatives}:
                return Answer()
            case _:
                raise call.problem()

    def divert(self, call: Call) -> Answer:
        """Only those that guarded the merge of /usr, which a fresh system has behind it; so nothing is diverted."""
        match call.argv[1:]:
            case ("--truename", path):
                return Answer(0, f"{path}\n")
            case ("--package", _, "--no-rename", "--divert", target, _) if target.endswith(".usr-is-merged"):
                return Answer()
            case _:
                raise call.problem()

    def py3compile(self, call: Call) -> Answer:
        name = self.control.package
        match call.argv[1:]:
            case ("-p", package, *folders) if package in {name, f"{name}:{self.control.architecture}"}:
                roots = tuple(f"{folder.strip('/')}/" for folder in ("usr/lib/python3/dist-packages", *folders))
                paths = (path.removeprefix("/") for path in self.deb.names)
                self.done.compiled |= {path for path in paths if path.startswith(roots) and path.endswith(".py")}
                return Answer()
            case _:
                raise call.problem()

    def schemas(self, call: Call) -> Answer:
        """Nothing to compile, nothing to do: as glib-compile-schemas does."""
        folder = call.argv[-1].strip("/")
        if any(p.startswith(f"{folder}/") and p.endswith((".xml", ".override")) for p in self.done.tree):
            raise call.problem()
        return Answer()

    def group(self, call: Call) -> Answer:
        options = {"--system", "--quiet", "--force-badname", "--allow-bad-names", "-q"}
        names = [word for word in call.argv[1:] if word not in options]
        if "--system" not in call.argv or len(names) != 1 or names[0].startswith("-"):
            raise call.problem()
        if not any(line.partition(":")[0] == names[0] for line in lines_of(self.done.tree, "etc/group")):
            # addgroup --system takes the first free number from 100 on (FIRST_SYSTEM_GID)
            taken = {int(line.split(":")[2]) for line in lines_of(self.done.tree, "etc/group")}
            number = next(n for n in range(100, 1000) if n not in taken)
            append_line(self.done.tree, "etc/group", f"{names[0]}:x:{number}:")
            append_line(self.done.tree, "etc/gshadow", f"{names[0]}:!::")
        return Answer()

    def own(self, call: Call) -> Answer:
        name = call.argv[0]
        match call.argv[1:]:
            case (value, *paths) if paths and not value.startswith("-"):
                for path in paths:
                    where, entry = self.find(self.path(call, path))
                    if entry is None:
                        raise call.problem()
                    self.done.tree[where] = self.owned(call, entry, name, value)
                return Answer()
            case _:
                raise call.problem()

    def owned(self, call: Call, entry: Entry, command: str, value: str) -> Entry:
        if command == "chmod":
            if value == "u-s":
                return replace(entry, mode=entry.mode & ~0o4000)
            if not re.fullmatch(r"[0-7]{3,4}", value):
                raise call.problem()
            return replace(entry, mode=int(value, 8))
        user, _, group = (f":{value}" if command == "chgrp" else value).partition(":")
        uid = self.number(call, "passwd", user) if user else entry.uid
        return replace(entry, uid=uid, gid=self.number(call, "group", group) if group else entry.gid)

    def setcap(self, call: Call) -> Answer:
        """One clause for one file. Scripts try setcap first, and make the file setuid if it fails."""
        where, entry = self.find(self.path(call, call.argv[-1]))
        if entry is None or len(call.argv) != 3:
            raise call.problem()
        try:
            self.done.tree[where] = replace(entry, capability=capability(call.argv[1]))
        except ValueError as error:
            raise call.problem() from error
        return Answer()

    def number(self, call: Call, file: str, name: str) -> int:
        for line in lines_of(self.done.tree, f"etc/{file}"):
            if line.partition(":")[0] == name:
                return int(line.split(":")[2])
        raise call.problem(f"{shlex.join(call.argv)[:100]}: not found in /etc/{file}")

    def mkdir(self, call: Call) -> Answer:
        match call.argv[1:]:
            case ("-p", *paths) if paths and not any(p.startswith("-") for p in paths):
                for path in paths:
                    self.folder(call, path)
                return Answer()
            case (path,) if self.find(self.path(call, path))[1] is None:
                self.folder(call, path)
                return Answer()
            case _:
                raise call.problem()

    def folder(self, call: Call, path: str, **how: int) -> None:
        where, entry = self.find(self.path(call, path))
        if entry is not None and entry.kind is not Kind.DIRECTORY:
            raise call.problem(f"{shlex.join(call.argv)[:100]}: {path} exists")
        if entry is None or how:
            self.done.tree[where] = replace(directory_entry(where), **how)  # type: ignore[arg-type]

    def install(self, call: Call) -> Answer:
        words, how, paths = list(call.argv[1:]), dict[str, int](), list[str]()
        if "-d" not in words:
            raise call.problem()
        while words:
            match words.pop(0):
                case "-d":
                    pass
                case "-m":
                    how["mode"] = int(words.pop(0), 8)
                case "-o":
                    how["uid"] = self.number(call, "passwd", words.pop(0))
                case "-g":
                    how["gid"] = self.number(call, "group", words.pop(0))
                case path if path.startswith("/"):
                    paths.append(path)
                case _:
                    raise call.problem()
        for path in paths:
            self.folder(call, path, **how)
        return Answer()

    def link(self, call: Call) -> Answer:
        options = [word for word in call.argv[1:] if word.startswith("-")]
        match [word for word in call.argv[1:] if not word.startswith("-")]:
            case [target, path] if set(options) <= {"-s", "-sf", "-f"} and any("s" in o for o in options):
                where, entry = self.find(self.path(call, path), follow=False)
                if entry is not None and (entry.kind is Kind.DIRECTORY or not any("f" in o for o in options)):
                    raise call.problem(f"{shlex.join(call.argv)[:100]}: {path} exists")
                self.done.tree[where] = symlink_entry(where, target)
                return Answer()
            case _:
                raise call.problem()

    def remove(self, call: Call) -> Answer:
        """Only what an added package or a script created: a layer cannot remove from the base."""
        for path in (word for word in call.argv[1:] if not word.startswith("-")):
            where, entry = self.find(self.path(call, path), follow=False)
            if entry is None and not (set(call.argv) & {"-f", "-rf", "--ignore-fail-on-non-empty"}):
                raise call.problem(f"{shlex.join(call.argv)[:100]}: it does not exist")
            if entry is not None:
                if entry.kind is Kind.DIRECTORY or where in self.done.base:
                    raise call.problem()
                del self.done.tree[where]
        return Answer()

    def touch(self, call: Call) -> Answer:
        for path in call.argv[1:]:
            where, entry = self.find(self.path(call, path))
            if entry is None:
                self.done.tree[where] = file_entry(where, b"")
        return Answer()

    def printf(self, call: Call) -> Answer:
        if "%" in call.argv[1]:
            raise call.problem()
        return Answer(0, call.argv[1].replace("\\n", "\n"))

    def source(self, call: Call) -> Answer:
        if call.argv[1:] != ("/usr/share/debconf/confmodule",):
            raise call.problem()
        return Answer()


_METHODS: Mapping[str, str] = {
    ".": "source",
    "[": "test",
    "addgroup": "group",
    "chgrp": "own",
    "chmod": "own",
    "chown": "own",
    "command": "command",
    "dpkg": "dpkg",
    "dpkg-divert": "divert",
    "dpkg-query": "dpkg_query",
    "dpkg-statoverride": "statoverride",
    "getent": "getent",
    "glib-compile-schemas": "schemas",
    "install": "install",
    "ln": "link",
    "mkdir": "mkdir",
    "printf": "printf",
    "py3compile": "py3compile",
    "rm": "remove",
    "rmdir": "remove",
    "setcap": "setcap",
    "test": "test",
    "touch": "touch",
    "update-alternatives": "alternatives",
    "which": "command",
}


def _is_left_out(command: str) -> bool:
    name = command.rpartition("/")[2]
    return name in LEFT_OUT or name in NOTED
