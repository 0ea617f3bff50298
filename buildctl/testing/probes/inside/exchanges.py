# ruff: noqa: F821, ICN001
"""Runs inside the image, in front of torch_report: what goes between torch and numpy or pillow, both ways."""

# What each torch has of them is asked; uint64 scalars are left out, which torch takes from no numpy.
NUMPY_TYPES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 complex64 complex128"


def numpy_bridge():
    """Every way that data goes between numpy and torch, for every type: how many were tried, and which went wrong."""
    import numpy
    import torch

    types = [name for name in NUMPY_TYPES.split() if hasattr(torch, name)]
    return {"numpy": numpy.__version__, "types": len(types), **tried(numpy_ways(numpy, torch, name) for name in types)}


def tried(exchanges):
    """`exchanges` are dicts of what says whether that way works: how many were tried, and which went wrong."""
    ways = {way: works for some in exchanges for way, works in some.items()}
    wrong = []
    for way, works in ways.items():
        try:
            problem = None if works() else "another value, type or size"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            wrong.append(f"{way}: {problem[:200]}")
    return {"tried": len(ways), "wrong": wrong}


def numpy_ways(numpy, torch, name):
    kind, dtype = getattr(torch, name), numpy.dtype(name)
    scalar, array, tensor = dtype.type(1), numpy.array([0, 1], dtype=dtype), torch.tensor([0, 1], dtype=kind)

    def is_tensor(found):
        return found.dtype == kind and found.tolist() == [0, 1]

    def is_array(found):
        return found.dtype == dtype and found.tolist() == [0, 1]

    def shared():
        mine = array.copy()
        theirs = torch.from_numpy(mine)
        mine[0] = 1
        return theirs.tolist() == [1, 1] and theirs.numpy().tolist() == [1, 1]

    ways = {
        f"torch.from_numpy of {name}": lambda: is_tensor(torch.from_numpy(array)) and shared(),
        f"torch.tensor of a {name} array": lambda: is_tensor(torch.tensor(array)),
        f"numpy() of {name}": lambda: is_array(tensor.numpy()),
        f"numpy.asarray of a {name} tensor": lambda: is_array(numpy.asarray(tensor)),
        f"torch.from_dlpack of {name}": lambda: is_tensor(torch.from_dlpack(array)),
        f"numpy.from_dlpack of {name}": lambda: is_array(numpy.from_dlpack(tensor)),
        f"numpy.{name} of a tensor": lambda: dtype.type(tensor[1]) == scalar,
        f"a tensor times numpy.{name}": lambda: (torch.ones(2) * scalar).tolist() == [1, 1],
    }
    if name != "uint64":
        ways[f"torch.tensor of numpy.{name}"] = lambda: torch.tensor(scalar).dtype == kind and torch.tensor(scalar) == 1
        ways[f"torch.tensor of a list of numpy.{name}"] = lambda: torch.tensor([scalar, scalar]).tolist() == [1, 1]
    return ways


# Those that every torchvision since 0.20 takes both ways.
PILLOW_MODES = "L RGB RGBA I F"


def pictures():
    """torchvision's version, and every way that a picture goes between it and pillow: which went wrong."""
    version = version_of("torchvision")
    if version is None:
        return None
    import PIL

    return {"version": version, "pillow": PIL.__version__, **tried(map(picture_ways, PILLOW_MODES.split()))}


def picture_ways(mode):
    import torchvision.transforms.functional as change
    from PIL import Image

    pixel = {"RGB": (1, 2, 3), "RGBA": (1, 2, 3, 255)}.get(mode, 7)
    picture = Image.new(mode, (3, 2), pixel)
    values = list(pixel) if isinstance(pixel, tuple) else [pixel]

    def is_picture(found):
        return (found.mode, found.size, found.getpixel((2, 1))) == (mode, (3, 2), pixel)

    return {
        f"pil_to_tensor of {mode}": lambda: change.pil_to_tensor(picture)[:, 1, 2].tolist() == values,
        f"to_pil_image of {mode}": lambda: is_picture(change.to_pil_image(change.pil_to_tensor(picture), mode)),
        f"resize of {mode}": lambda: change.resize(picture, [4, 6]).size == (6, 4),
    }
