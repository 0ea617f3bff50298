"""Which kind of GPU an image is built for, and the device files that its containers get from this machine."""

from __future__ import annotations

from buildctl.lock.claims import LABEL
from buildctl.matrix.accelerators import AcceleratorKind, kind_in_image
from buildctl.oci.image import ImageConfig
from buildctl.runtimes.devices import device_files, gpu_nodes

NOT_FOR_GPUS = "not an image for GPUs"
EMULATED = "an emulated image cannot use a GPU"


def kind_of_image(config: ImageConfig) -> AcceleratorKind:
    return kind_in_image(config.env, config.labels, LABEL)


def files_here(kind: AcceleratorKind) -> tuple[tuple[str, ...], str]:
    """(paths below /dev, why there are none) for a kind whose GPUs are passed as files."""
    if kind.files is None:
        return (), NOT_FOR_GPUS
    found, reason = device_files(kind.files, gpu_nodes())
    return found, f"{reason} on this host" if reason else ""
