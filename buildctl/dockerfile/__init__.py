"""Stage 3, the plan as text: Dockerfiles and the bake file from templates, matrix and locks; and their parser.

Start with `files.render_images` and `parse.read_dockerfile`. `common/` holds the scripts that every Dockerfile copies,
`guide` is the text of images/README.md.

May import: lock and whatever lock may.
"""
