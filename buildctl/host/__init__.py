"""The local machine: its facts, and whether an image will run on it.

Start with `facts.this_host` and `verdict.decide`; `check` and `doctor` are the commands of those names.

May import: runtimes and whatever they may.
"""
