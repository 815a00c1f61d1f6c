# Two targets, built by the same steps (scripts/image/):
#   docker build --target cuda -t actiondiff .        Hopper (sm90), NVIDIA driver 580 or newer
#   docker build --target cpu -t actiondiff:cpu .     any x86_64
# docs/image.md describes the arguments and how to pin the base image by digest.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS sources
COPY pyproject.toml README.md LICENSE /src/
COPY requirements /src/requirements
COPY scripts/image /src/scripts/image
COPY configs /src/configs
COPY expected /src/expected
COPY workflow /src/workflow
COPY repro /src/repro

# The fork's files, to avoid fetching them: --build-context fork=FOLDER --build-arg FORK_FOLDER=/fork
FROM scratch AS fork

FROM sources AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG FORK_COMMIT=
ARG FORK_FOLDER=
COPY --from=fork / /fork
RUN TORCH_INDEX="${TORCH_INDEX}" FORK_COMMIT="${FORK_COMMIT}" FORK_FOLDER="${FORK_FOLDER}" /src/scripts/image/build.sh cpu

FROM sources AS build-cuda
ARG TORCH_INDEX=
ARG FORK_COMMIT=57fcb5811622acd2147f500f555845dddf7b079b
ARG FORK_FOLDER=
COPY --from=fork / /fork
# Compile extensions of the fork or of later packages for Hopper.
ENV TORCH_CUDA_ARCH_LIST=9.0
RUN TORCH_INDEX="${TORCH_INDEX}" FORK_COMMIT="${FORK_COMMIT}" FORK_FOLDER="${FORK_FOLDER}" /src/scripts/image/build.sh cuda

FROM ${BASE_IMAGE} AS runtime
ARG BASE_IMAGE
ARG VERSION=0.2.0.dev0
ARG REVISION=unknown
COPY scripts/image /src/scripts/image
RUN /src/scripts/image/runtime.sh && rm -rf /src
LABEL org.opencontainers.image.title="actiondiff" \
      org.opencontainers.image.description="Repeats the results table of ActionDiff (arXiv 2509.08908)" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# HOME and USER are set for users that the image does not know. Libraries write their caches to /tmp.
ENV PATH=/opt/actiondiff/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=actiondiff \
    MPLCONFIGDIR=/tmp/matplotlib \
    REPRO_WORKSPACE=/workspace \
    REPRO_DATA=/data \
    REPRO_CHECKPOINTS=/checkpoints \
    REPRO_SCRATCH=/tmp \
    REPRO_IMAGE=actiondiff:${VERSION} \
    REPRO_COMMIT=${REVISION}
WORKDIR /workspace
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["repro", "list"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/actiondiff /opt/actiondiff

# `docker build .` builds the last target.
FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    REPRO_DEVICE=cuda
COPY --from=build-cuda /opt/actiondiff /opt/actiondiff
