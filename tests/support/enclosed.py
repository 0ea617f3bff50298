"""What root of an image can reach, in a sandbox and in Docker: a Markdown table, and on stderr every file by name.

usage: python -m tests.support.enclosed [IMAGE]    of dist/; default: base-debian13-amd64

As root. Docker is the daemon that answers, else the engine of the tests.
"""

from __future__ import annotations

import ast
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from buildctl.artifacts.store import Store
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef, Runtime
from buildctl.runtimes.docker import DockerRuntime
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from tests.support.engine import Unavailable, engine

# all but the folders of processes, which are those in there; what is hidden behind /dev/null is a device
OPENS_FOR_WRITING = """
import os, stat
opened = []
for top in ("/proc", "/sys"):
    for folder, folders, files in os.walk(top):
        if folder == "/proc": folders[:] = [name for name in folders if not name.isdigit()]
        for name in files:
            path = os.path.join(folder, name)
            if os.path.islink(path) or stat.S_ISCHR(os.stat(path).st_mode): continue
            try: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)); opened.append(path)
            except OSError: pass
print(opened)
"""
_STATUS = ("Seccomp", "NoNewPrivs", "CapEff", "CapBnd", "CapAmb")
_READ = f"""
lines = dict(line.rstrip("\\n").split(":", 1) for line in open("/proc/self/status"))
print({{key: lines[key].strip() for key in {_STATUS}}} | {{"uid": open("/proc/self/uid_map").read().split()}})
"""


def seen(runtime: Runtime, image: ImageRef) -> tuple[list[str], dict[str, Any]]:
    """The files that open for writing, and what the kernel says of the process."""
    with runtime.start(image) as session:
        answers = []
        for code in (OPENS_FOR_WRITING, _READ):
            done = session.run(["python3", "-c", code], timeout=300, user="0")
            assert done.returncode == 0, done.stderr
            answers.append(ast.literal_eval(done.stdout))
        return answers[0], answers[1]


def main() -> None:
    layout = Layout(Path("dist"))
    name = sys.argv[1] if len(sys.argv) > 1 else "base-debian13-amd64"
    descriptor = layout.resolve(name)
    config = layout.config(descriptor)
    image = ImageRef(
        layout=layout.root, descriptor=descriptor, name=name, arch=config.platform.architecture, config=config
    )
    found = {"Sandbox": seen(SandboxRuntime(Store.default()), image)}
    with ExitStack() as stack:
        try:
            os.environ.update(stack.enter_context(engine()).env)
            found["Docker"] = seen(DockerRuntime(), image)
        except Unavailable as reason:
            print(f"Docker: NOT RUN: {reason}", file=sys.stderr)  # noqa: T201
    rows = {"": list(found), "files in /proc and /sys that open for writing": [str(len(f)) for f, _ in found.values()]}
    rows["root inside is"] = [f"id {said['uid'][1]} of the machine" for _, said in found.values()]
    rows |= {f"`{key}`": [f"`{said[key]}`" for _, said in found.values()] for key in _STATUS}
    for number, (what, cells) in enumerate(rows.items()):
        print(f"| {what} | {' | '.join(cells)} |" + "\n|---|---|---|" * (number == 0))  # noqa: T201
    for where, (files, _) in found.items():
        print(f"{where}:", *files or ["none"], file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
