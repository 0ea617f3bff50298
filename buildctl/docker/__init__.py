"""The Docker daemon, local or remote: how it is reached, and how an image gets into it.

Start with `daemon.connected` and `load.load`. `context` decides which daemon is meant, as `docker` does; `ssh`
carries its socket; `loopback` serves a layout so that the daemon pulls only what it lacks.

May import: oci, matrix, console and ground.
"""
