"""The engine `docker`: BuildKit executes the rendered Dockerfiles and writes the same layout as the engine `assemble`.

`buildkit` runs `docker buildx bake` and takes its result in; `progress` reads BuildKit's log; `uv_image` makes the
image that brings uv into a build. It may import what `build` may. Start with `buildkit`.
"""
