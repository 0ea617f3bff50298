"""Stage 1, what is wanted: matrix.yaml to values, every problem with its line.

Start with `read.load_matrix`, which returns a `matrix.Matrix` of `cells.Cell`s and of combinations that cannot
exist. It is parsed once: no other folder looks at YAML. `accelerators` is the table of kinds of hardware, `arch` the
one table of architectures, `account` what every image has: its user, home and PATH.

May import: ground, console.
"""
