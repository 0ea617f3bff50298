"""Runs an image without Docker and without trust: namespaces, an overlay of unpacked layers, QEMU for foreign code.

One entry: `sandbox.SandboxRuntime`. `init` is the first process inside, and imports nothing of buildctl.
"""
