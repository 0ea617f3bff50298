"""Probes: files that run inside an image (inside/), and what runs them and compares the answers with the cell."""

from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.findings import names_of, test_environment, test_image, test_native

__all__ = ["Expected", "names_of", "test_environment", "test_image", "test_native"]
