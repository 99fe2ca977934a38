"""``python -m flows.deploy``, for one more release: use ``notellm2 deploy``."""

from flows.deprecated import run_as

if __name__ == "__main__":
    run_as("deploy")
