"""One file per public dataset layout; each has `read(folder) -> Iterator[Annotated]`."""
