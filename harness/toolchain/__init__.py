"""From generated C to an image: PlatformIO, compilers, what the image takes, and where its functions are."""
