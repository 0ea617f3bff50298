"""Maintainer scripts, read and never run: what they would do on a fresh install, as data.

One entry: `installed`. It asks `shell` to follow a script; a command it does not know is an ArtifactError.
"""
