"""``python -m flows.deploy``."""

from flows.deploy.deployments import main

if __name__ == "__main__":
    raise SystemExit(main())
