"""Running an image in Docker: a fresh container per command, killed at its deadline, removed afterwards."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest

from buildctl.docker.daemon import connected, is_here
from buildctl.docker.load import load
from buildctl.ground.errors import EngineError, RuntimeUnavailableError, ToolError
from buildctl.matrix.accelerators import AcceleratorKind
from buildctl.matrix.arch import ARCHES, arch_named
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import EMULATION_ENV, ImageRef, Outcome
from buildctl.runtimes.gpu_files import EMULATED, NOT_FOR_GPUS, files_here, kind_of_image

LABEL = "buildctl.deadline"  # seconds since 1970, after which anyone may remove the container
SLACK = 60.0  # seconds over a command's own deadline before its container counts as abandoned
_LONGEST = 128  # letters of a name; Docker takes 255 with what is before it
OUTPUT = 4 << 20  # bytes kept of each of stdout and stderr
CDI = "nvidia.com/gpu"  # the kind of device that NVIDIA's toolkit describes
NO_GPU = "the Docker daemon has neither the NVIDIA runtime nor NVIDIA CDI devices"


class DockerRuntime:
    """The daemon that `docker` talks to (DOCKER_HOST, the current context), or that of a docker context or URL.

    Once started, `name` includes the machine if it is not this one.
    """

    def __init__(self, context: str | None = None) -> None:
        self.context = context
        self.name = "docker"

    @contextmanager
    def start(self, image: ImageRef) -> Iterator[DockerSession]:
        """Load the image if the daemon lacks it, under a temporary name; raises RuntimeUnavailableError."""
        with connected(self.context) as client:
            self.name = _where(client, self.context)
            _sweep(client)
            tag = f"buildctl-test/{repository_name(image.name)}:{image.descriptor.digest.short}"
            try:
                load(Layout(image.layout), image.descriptor, tag, client=client)
            except EngineError as error:
                raise RuntimeUnavailableError(error.message, hint=error.hint) from error
            try:
                yield _open(client, image, tag)
            finally:
                with suppress(DockerException, OSError):
                    client.api.remove_image(tag)


def repository_name(text: str) -> str:
    """Any text, for example a reference or a path, reduced to the characters that Docker accepts."""
    return "-".join(re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", text.lower()))[-_LONGEST:].lstrip("-.") or "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSession:
    client: docker.DockerClient
    tag: str
    platform: str
    entrypoint: tuple[str, ...]
    emulated: str | None
    gpus_reason: str
    device_request: DeviceRequest | None
    device_files: tuple[str, ...]
    extra_env: Mapping[str, str]
    init: bool = True

    @property
    def gpus(self) -> bool:
        return self.device_request is not None or bool(self.device_files)

    @property
    def ownership(self) -> bool:
        return True

    @property
    def at_once(self) -> int:
        return 1

    def stop(self) -> None:
        """Nothing runs in another thread."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: str = "",
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        read_only: bool = True,
        tmp: bool = True,
        network: bool = False,
        through_entrypoint: bool = False,
    ) -> Outcome:
        """See `Session.run`; raises ToolError if Docker, not the command, fails."""
        if not argv and not through_entrypoint:
            raise ToolError("nothing to run: no command, and the image's ENTRYPOINT is not used")
        extra = {**self.extra_env, **(env or {})}
        config = self._config(timeout=timeout, stdin=bool(stdin), user=user, env=extra)
        # Docker's own init, since the first process of a container ignores signals by default; not in front of
        # the image's ENTRYPOINT, which must behave as under `docker run`
        init = self.init and not through_entrypoint
        config["host_config"] = self._host_config(read_only=read_only, tmp=tmp, network=network, init=init)
        if through_entrypoint:
            config["command"] = list(argv) or None
        else:
            config["entrypoint"], config["command"] = list(argv[:1]), list(argv[1:])
        try:
            container = self.client.api.create_container(self.tag, **config)["Id"]
        except (DockerException, OSError) as error:
            raise ToolError(f"Docker cannot create a container from {self.tag}: {_explain(error)}") from error
        try:
            return _finish(self.client, container, timeout=timeout, stdin=stdin)
        except (DockerException, OSError) as error:
            raise ToolError(f"Docker failed while running {' '.join(argv)[:200]}: {_explain(error)}") from error
        finally:
            with suppress(DockerException, OSError):
                self.client.api.remove_container(container, force=True, v=True)

    def _config(self, *, timeout: float, stdin: bool, user: str | None, env: Mapping[str, str]) -> dict[str, Any]:
        return {
            "platform": self.platform,
            "stdin_open": stdin,
            "user": user,
            "environment": dict(env),
            "labels": {LABEL: str(int(time.time() + timeout + SLACK))},
        }

    def _host_config(self, *, read_only: bool, tmp: bool, network: bool, init: bool) -> Any:
        return self.client.api.create_host_config(
            read_only=read_only,
            # Docker's own default for a tmpfs is noexec, which torch.compile's libraries do not survive
            tmpfs={"/tmp": "rw,exec,nosuid,nodev,mode=1777"} if read_only and tmp else None,  # noqa: S108 - in the container
            network_mode="bridge" if network else "none",
            device_requests=[self.device_request] if self.device_request else None,
            devices=[f"{path}:{path}:rw" for path in self.device_files] or None,
            group_add=_groups(self.device_files) or None,
            init=init,
            # a program that prints without end must not fill the disk
            log_config=docker.types.LogConfig(type="json-file", config={"max-size": "8m", "max-file": "2"}),
        )


def _where(client: docker.DockerClient, context: str | None) -> str:
    """For the report: machines and contexts by name, no user names."""
    if context is None and is_here(client):
        return "docker"
    named = f", context {context}" if context and "://" not in context else ""
    return f"docker on {client.info().get('Name') or 'another machine'}{named}"


def _open(client: docker.DockerClient, image: ImageRef, tag: str) -> DockerSession:
    info = client.info()
    native = arch_named(str(info.get("Architecture")))
    emulated = (
        None if image.arch == native else ARCHES[image.arch].emulator if image.arch in ARCHES else f"qemu-{image.arch}"
    )
    kind = kind_of_image(image.config)
    request, reason = gpu_request(info, kind=kind, emulated=emulated)
    files: tuple[str, ...] = ()
    if kind.files is not None and not emulated:
        files, reason = files_here(kind) if is_here(client) else ((*kind.files.needed, "/dev/dri"), "")
    session = DockerSession(
        client=client,
        tag=tag,
        extra_env=EMULATION_ENV.get(image.arch, {}) if emulated else {},
        platform=str(image.config.platform),
        entrypoint=image.config.entrypoint,
        emulated=emulated,
        gpus_reason=reason,
        device_request=request,
        device_files=files,
    )
    return _tried(session, image.arch)


def _groups(files: Sequence[str]) -> list[str]:
    """Owners of these device files here, by number: any user of the image may then open them."""
    found = set()
    for path in files:
        with suppress(OSError):
            found.add(str(Path(path).stat().st_gid))
    return sorted(found - {"0"})


def gpu_request(
    info: Mapping[str, Any], *, kind: AcceleratorKind, emulated: str | None
) -> tuple[DeviceRequest | None, str]:
    """All NVIDIA GPUs of the daemon whose `docker info` this is, as `--gpus all` or `--device nvidia.com/gpu=all` asks
    for them; None and the reason where there are none.
    """
    if not kind.gpu:
        return None, NOT_FOR_GPUS
    if emulated:
        return None, EMULATED
    if kind.files is not None:
        return None, ""
    if "nvidia" in (info.get("Runtimes") or {}):
        return DeviceRequest(count=-1, capabilities=[["gpu"]]), ""
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
    ours = [device for device in devices if device.startswith(f"{CDI}=")]
    if ours:
        every = f"{CDI}=all"
        return DeviceRequest(driver="cdi", device_ids=[every] if every in ours else ours), ""
    return None, NO_GPU


def _tried(session: DockerSession, arch: str) -> DockerSession:
    """The session, once `true` ran in it, without what this daemon cannot do."""
    outcome = session.run(["true"], timeout=60)
    if outcome.returncode == 0:
        return session
    said = (outcome.stderr or outcome.stdout).strip()
    if session.init and "docker-init" in said:  # Debian's Docker may have none
        return _tried(replace(session, init=False), arch)
    if session.extra_env and "CPU model" in said:  # an emulator before QEMU 7.0
        return _tried(replace(session, extra_env={}), arch)
    if session.gpus:  # a driver that is broken or gone
        reason = f"the Docker daemon cannot pass its GPU through: {said}"
        return _tried(replace(session, device_request=None, device_files=(), gpus_reason=reason), arch)
    if session.emulated:
        raise RuntimeUnavailableError(
            f"the Docker daemon cannot run {session.platform} images: {said}",
            hint="apt-get install qemu-user-static binfmt-support on the daemon's machine, or: "
            f"docker run --privileged --rm tonistiigi/binfmt --install {arch}",
        )
    return session  # if `true` fails in the image, the probes judge it


def _finish(client: docker.DockerClient, container: str, *, timeout: float, stdin: str) -> Outcome:
    """Start it, feed it, wait, kill it at the deadline: a container outlives its client."""
    socket = client.api.attach_socket(container, params={"stdin": 1, "stream": 1}) if stdin else None
    started = time.monotonic()
    try:
        client.api.start(container)
    except APIError as error:  # no such program, or no emulator for its architecture: what a shell calls 127 and 126
        status = 127 if isinstance(error, NotFound) or "not found" in _explain(error) else 126
        seconds = time.monotonic() - started
        return Outcome(returncode=status, stdout="", stderr=_explain(error), timed_out=False, seconds=seconds)
    if socket is not None:
        _feed(socket, stdin)
    try:
        status = int(client.api.wait(container, timeout=math.ceil(timeout))["StatusCode"])
        timed_out = False
    except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
        timed_out = True
        with suppress(APIError):  # it has just ended by itself
            client.api.kill(container, "SIGKILL")
        client.api.wait(container, timeout=60)
    seconds = time.monotonic() - started
    return Outcome(
        returncode=None if timed_out else _as_signal(status),
        stdout=_output(client, container, "stdout"),
        stderr=_output(client, container, "stderr"),
        timed_out=timed_out,
        seconds=seconds,
    )


def _feed(socket: Any, stdin: str) -> None:
    raw = getattr(socket, "_sock", socket)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # it ended without reading all
            raw.sendall(stdin.encode())
            raw.shutdown(1)  # SHUT_WR
    finally:
        socket.close()


def _as_signal(status: int) -> int:
    """Docker says 128 + n for death by signal n; subprocess, and so we, -n."""
    return 128 - status if 128 < status <= 128 + 64 else status


def _output(client: docker.DockerClient, container: str, stream: str) -> str:
    kept = bytearray()
    for chunk in client.api.logs(container, stdout=stream == "stdout", stderr=stream == "stderr", stream=True):
        kept += chunk
        if len(kept) > 2 * OUTPUT:
            del kept[:-OUTPUT]
    return kept[-OUTPUT:].decode(errors="replace")


def _sweep(client: docker.DockerClient) -> None:
    """Remove containers left by a buildctl that was killed."""
    for container in client.api.containers(all=True, filters={"label": LABEL}):
        deadline = str((container.get("Labels") or {}).get(LABEL, ""))
        if deadline.isdigit() and int(deadline) < time.time():
            with suppress(APIError, ImageNotFound):
                client.api.remove_container(container["Id"], force=True, v=True)


def _explain(error: BaseException) -> str:
    return str(getattr(error, "explanation", None) or error)
