"""``python -m notellm2``: the command line, wherever the script is not on the path."""

from notellm2.cli import main

if __name__ == "__main__":
    main()
