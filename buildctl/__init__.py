"""buildctl: PyTorch container images whose tag is the truth."""

__version__ = "0.1.0"
