# syntax=docker/dockerfile:1
# The project's image: worker, Prefect server, serving, one-shots. One image, so that a server and its clients cannot
# differ in version. Installed from constraints.txt, runs as nobody in particular, needs no writable root.
#   docker build --tag notellm2:0.1.0 .
#   docker build --tag notellm2-gpu:0.1.0 --build-arg TORCH_INDEX=https://pypi.org/simple .

FROM python:3.11.15-slim-trixie AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# torch by itself, first: it is the one large download, and changes least.
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --index-url "$TORCH_INDEX" --requirement torch.txt
# Then what we depend on, without us: a change of our code does not install it anew.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/notellm2 flows recipes/suites \
    && touch src/notellm2/__init__.py flows/__init__.py \
    && pip install --constraint constraints.txt '.[s3,serve,stack]' \
    && pip uninstall --yes notellm2
COPY src src
COPY flows flows
COPY recipes/suites recipes/suites
RUN pip install --no-deps . \
    && pip check

FROM python:3.11.15-slim-trixie AS run
ARG COMMIT=""
LABEL org.opencontainers.image.title="notellm2" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$COMMIT"
# PostgreSQL's programs for backups, of the server's major version. The base image's tag pins Debian's release, which
# takes security fixes only: a pinned package would vanish with the next one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --system --gid 10001 notellm2 \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/notellm2 --shell /usr/sbin/nologin notellm2 \
    && install -d -o notellm2 -g notellm2 /var/lib/notellm2 /var/lib/prefect /var/cache/notellm2 \
        /var/backups/notellm2 \
    && ln -s /app/recipes /app/flows /var/lib/notellm2/
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY recipes recipes
COPY flows flows
COPY deploy deploy
COPY prefect.yaml ./
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/var/lib/notellm2 \
    NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    NOTELLM2_HOME=/var/lib/notellm2 \
    NOTELLM2_COMMIT=$COMMIT
USER 10001:10001
CMD ["python", "-m", "notellm2", "--help"]
