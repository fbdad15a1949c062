"""How a package hands its files to the linters."""

def sources():
    """Declares the filegroup `sources`: all files of the package, without caches.

    Every package calls this once and is listed in //tools/lint:all_sources.
    """
    native.filegroup(
        name = "sources",
        srcs = native.glob(
            ["**"],
            exclude = [
                "**/.*_cache/**",
                "**/.ipynb_checkpoints/**",
                "**/__pycache__/**",
            ],
        ),
        visibility = ["//tools/lint:__pkg__"],
    )
