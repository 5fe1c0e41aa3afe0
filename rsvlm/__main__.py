"""`python -m rsvlm` is the `rsvlm` command, for launchers that start modules."""

from rsvlm.cli import main

if __name__ == "__main__":
    main()
