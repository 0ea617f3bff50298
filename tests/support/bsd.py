"""Programs as a Mac has them, in a folder for PATH: they refuse what only GNU's know, and Linux's own are missing."""

from __future__ import annotations

import shutil
from pathlib import Path

# what BSD's take; everything else is refused, and long options always
OPTIONS = {
    "sed": "aEeflnu",
    "date": "fjnruv",
    "readlink": "n",
    "stat": "FfLlnqrstx",
    "mktemp": "dqtu",
    "grep": "ABCEFGHLRcehilmnoqrsvwx",
    "sort": "bcdfghiklmnorstu",
    "xargs": "0EIJLPRnpsx",
    "cp": "HLPRXacfinprv",
    "mv": "finv",
    "rm": "Pdfirvx",
    "mkdir": "mpv",
    "ln": "FLPfhinsvw",
    "cut": "bcdfnsw",
    "tr": "Ccdsu",
    "head": "cn",
    "tail": "Fbcfnqr",
    "tee": "ai",
    "touch": "AacdhmrtR",
    "wc": "clmwL",
    "awk": "Ffv",
    "find": "EHLPXdsxafinopr",
}
MISSING = (
    "sha256sum",
    "sha512sum",
    "realpath",
    "tac",
    "nproc",
    "timeout",
    "shuf",
    "numfmt",
    "setsid",
    "systemctl",
    "apt-get",
)

_SCRIPT = """\
#!/bin/sh
# the letters before a value are options; "find" has words, which are checked for those of GNU alone
for word in "$@"; do
    case $word in
    --) break ;;
    -printf | -regextype | --*) echo "{name}: illegal option $word" >&2; exit 64 ;;
    -[0-9]*) {numbers} ;;
    -*[!{letters}]*) case {name} in find | awk) ;; *) case $word in
        -[{letters}]*[!a-zA-Z]*) ;;
        *) echo "{name}: illegal option $word" >&2; exit 64 ;; esac ;; esac ;;
    esac
done
exec {real} "$@"
"""


def mac_like(folder: Path) -> None:
    for name, letters in OPTIONS.items():
        numbers = f'echo "{name}: illegal option $word" >&2; exit 64' if name in {"sed", "cut", "tr"} else ":"
        real = shutil.which(name)
        if real is not None:
            script = _SCRIPT.format(name=name, letters=letters, real=real, numbers=numbers)
            _write(folder / name, script)
    for name in MISSING:
        _write(folder / name, f'#!/bin/sh\necho "{name}: command not found" >&2\nexit 127\n')
    _write(folder / "bash", f'#!/bin/sh\nBASH_COMPAT=3.2 exec {shutil.which("bash", path="/bin:/usr/bin")} "$@"\n')


def _write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)
