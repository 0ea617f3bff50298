"""Debian packages to the file tree of a base, without running a maintainer script.

Start with `base.base_entries`. `deb` reads one package, `package` is a locked one, `configured` and its neighbours
write what maintainer scripts would have done to a base, `scripts/` does so for packages that an image adds, and
`python` unpacks the base's Python as a program of the build machine.
"""
