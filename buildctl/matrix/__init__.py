"""Stage 1, what is wanted: matrix.yaml to values, every problem with its line.

Start with `read.load_matrix`, which returns a `matrix.Matrix` of `cells.Cell`s and of combinations that cannot
exist. It is parsed once: no other folder looks at YAML. `accelerators` is the table of kinds of hardware,
`project.Project` knows where the files of a project are.

May import: ground, console.
"""
