"""A real Docker Engine for tests: the one that answers, else a current one of our own in namespaces."""

from tests.support.engine.daemon import Engine, engine
from tests.support.engine.rootfs import Unavailable, program

__all__ = ["Engine", "Unavailable", "engine", "program"]
