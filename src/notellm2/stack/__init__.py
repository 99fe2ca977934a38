"""The team's set-up: PostgreSQL, MLflow, Prefect, a worker and the serving, as containers or as plain processes.

``docker-compose.yml`` is the one description of the services and ``.env`` the one source of their settings. Docker
reads both; `notellm2.stack.native` reads the same two and starts the same programs without containers, under
supervisor. This room starts programs: it imports neither Prefect nor MLflow, and `passwords` and `health` run on the
standard library alone, because images without the rest of our packages run them too.
"""
