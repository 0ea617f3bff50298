"""Looking inside before a lock is written: Debian packages are put together once, base images and own wheels are read.

Start with `base_image.lock_image` for a base that is an image, `assembly.refuse_unbuildable` for a Debian base,
`local_wheels` for `images.*.wheels`. `image_python` finds the Python in the files of an image.
"""
