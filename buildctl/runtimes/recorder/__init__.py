"""Running the maintainer scripts of added Debian packages once, when they are locked, to write down what they do.

One entry: `record.open_recorder`. Debian's own apt and dpkg install the packages in a sandbox, in a root made from the
locked base; `observe` is the program in there, and imports nothing of buildctl; `rules` says what of the difference is
kept. `buildctl.artifacts.debian.recorded` is the file that it becomes.
"""
