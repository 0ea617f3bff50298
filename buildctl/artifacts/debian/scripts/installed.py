"""What the maintainer scripts of added Debian packages would do to a fresh system, as data; no script is run.

`shell` follows each script; this module defines what its commands do to the tree. An unknown command is an
ArtifactError, so that nothing is silently skipped. Left out on purpose, as in `debian.configured`: units and init
scripts being enabled (nothing starts them in a container), and caches that programs do without.
"""

from __future__ import annotations

from collections.abc import Sequence

from buildctl.artifacts.debian.deb import Control, Deb
from buildctl.artifacts.debian.scripts.commands import WAY_OUT, Effects, Scripts, UnknownScriptError
from buildctl.oci.entry import Entry

# Programs whose work is left out, whatever their arguments.
# Triggers of packages in a base whose work is done for the whole tree, or that only a running system has use for.
ANSWERED = frozenset({"ldconfig", "/usr/share/debianutils/shells.d", "/usr/lib/sysctl.d"})


def install(debs: Sequence[Deb], tree: dict[str, Entry], base: Sequence[Deb], arch: str) -> Effects:
    """Bring `tree`, in which `debs` are unpacked on top of `base`, to where their scripts would bring it.

    Raises ArtifactError with the package, the script, its line and a hint.
    """
    names = frozenset(deb.control.package for deb in (*base, *debs))
    added = {entry.path for deb in debs for entry in deb.entries}
    done = Effects(arch=arch, tree=tree, base=frozenset(tree) - added, packages=names)
    for deb in base:
        if awaited := sorted(set(_activated(deb.control, debs)) - ANSWERED):
            raise UnknownScriptError(
                f"the added packages activate {', '.join(awaited)}, a trigger of {deb.control.package} of the base, "
                "whose script is not run",
                hint=WAY_OUT,
            )
    for deb in debs:
        script = Scripts(deb, done)
        script.run("preinst", "install")
        script.run("config", "configure", "")
        script.run("postinst", "configure", "")
    for deb in debs:
        if awaited := _activated(deb.control, debs):
            Scripts(deb, done).run("postinst", "triggered", " ".join(awaited))
    return done


def _activated(control: Control, debs: Sequence[Deb]) -> list[str]:
    """The triggers that `control` is interested in and that unpacking `debs` activates."""
    interests = _triggers(control, "interest")
    named = {name for deb in debs for name in _triggers(deb.control, "activate")}
    return [
        name
        for name in interests
        if name in named
        or (
            name.startswith("/")
            and any(n.startswith(f"{name}/") for deb in debs for n in deb.names if deb.control != control)
        )
    ]


def _triggers(control: Control, directive: str) -> list[str]:
    lines = control.files.get("triggers", b"").decode().splitlines()
    words = [line.partition("#")[0].split() for line in lines]
    return [pair[1] for pair in words if len(pair) == 2 and pair[0].startswith(directive)]
