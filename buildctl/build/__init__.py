"""Stage 4, images: a plan from the Dockerfile, recipes, layers, an image in the layout.

Start with `images.build_images`. `plan` turns instructions into operations or refuses them, `recipes` gives layers
their keys, `assemble` makes them; `buildkit` sends the same Dockerfile through `docker buildx bake`; `index` puts
platforms together; `native` makes the environment for macOS.

May import: dockerfile, host and whatever they may.
"""
