# ruff: noqa: F821
"""Runs inside the image, after exchanges and in front of torch_report: what torch does with packages that it asks for
without an upper bound, so that the newest version is installed.
"""


def helpers():
    """Each such package that is installed, with its version, and which of them torch cannot work with."""
    from importlib.metadata import PackageNotFoundError, version

    uses = {
        "networkx": ("a minimum cut by functorch.compile", minimum_cut),
        "setuptools": ("torch.utils.cpp_extension", extension_builder),
        "sympy": ("torch.export with a dynamic shape", dynamic_shape),
    }
    versions, ways = {}, {}
    for name, (what, way) in uses.items():
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # whether it must be there is what `pip check` tells
            continue
        ways[f"{name} {versions[name]}, {what}"] = way
    return {"versions": versions, **tried([ways])}


def minimum_cut():
    import torch
    from functorch.compile import aot_function, min_cut_rematerialization_partition, nop

    x = torch.linspace(-1, 1, 4, requires_grad=True)
    wave = aot_function(
        lambda x: x.sin().cos(), fw_compiler=nop, bw_compiler=nop, partition_fn=min_cut_rematerialization_partition
    )
    wave(x).sum().backward()
    return torch.allclose(x.grad, -x.sin().sin() * x.cos())


def extension_builder():
    import setuptools
    from torch.utils.cpp_extension import BuildExtension

    return issubclass(BuildExtension, setuptools.Command)


def dynamic_shape():
    import torch

    net, x = model()
    shapes = ({0: torch.export.Dim("batch")},)
    more = torch.cat([x, x])
    return torch.allclose(torch.export.export(net, (x,), dynamic_shapes=shapes).module()(more), net(more))
