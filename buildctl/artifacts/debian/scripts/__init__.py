"""Maintainer scripts, read and never run: what they would do on a fresh install, as data.

One entry: `installed`. It asks `shell` to follow a script, in which `commands` answers each command; one without an
answer is an ArtifactError.
"""
