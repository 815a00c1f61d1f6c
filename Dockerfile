# Two targets, built by the same steps (scripts/image/):
#   docker build --target cuda -t actiondiff .        Hopper (sm90), NVIDIA driver 580 or newer
#   docker build --target cpu -t actiondiff:cpu .     any x86_64
# docs/image.md describes the arguments, the target `checkpoints` and how to pin the base image by digest.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
# The target that `checkpoints` adds weights to.
ARG CHECKPOINTS_ON=cuda
# The labels of both targets, which name these at their end.
ARG VERSION=0.2.0.dev0
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown

# The lock alone: what follows is built again only when it changes, not with every change of the code.
FROM ${BASE_IMAGE} AS lock
COPY requirements /src/requirements
COPY scripts/image /src/scripts/image

# The fork's files, to avoid fetching them: --build-context fork=FOLDER --build-arg FORK_FOLDER=/fork
FROM scratch AS fork

FROM lock AS packages-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG FORK_COMMIT=
ARG FORK_FOLDER=
ARG SOURCE_DATE_EPOCH=
COPY --from=fork / /fork
RUN SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" TORCH_INDEX="${TORCH_INDEX}" FORK_COMMIT="${FORK_COMMIT}" FORK_FOLDER="${FORK_FOLDER}" \
    /src/scripts/image/packages.sh cpu

FROM lock AS packages-cuda
ARG TORCH_INDEX=
ARG FORK_COMMIT=57fcb5811622acd2147f500f555845dddf7b079b
ARG FORK_FOLDER=
ARG SOURCE_DATE_EPOCH=
COPY --from=fork / /fork
# Compile extensions of the fork or of later packages for Hopper.
ENV TORCH_CUDA_ARCH_LIST=9.0
RUN SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" TORCH_INDEX="${TORCH_INDEX}" FORK_COMMIT="${FORK_COMMIT}" FORK_FOLDER="${FORK_FOLDER}" \
    /src/scripts/image/packages.sh cuda

FROM scratch AS sources
COPY pyproject.toml README.md LICENSE /src/
COPY configs /src/configs
COPY expected /src/expected
COPY workflow /src/workflow
COPY repro /src/repro

FROM packages-cpu AS project-cpu
ARG SOURCE_DATE_EPOCH=
COPY --from=sources /src /src
RUN SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" /src/scripts/image/project.sh /project

FROM packages-cuda AS project-cuda
ARG SOURCE_DATE_EPOCH=
COPY --from=sources /src /src
RUN SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" /src/scripts/image/project.sh /project

FROM ${BASE_IMAGE} AS runtime
ARG SOURCE_DATE_EPOCH=
COPY scripts/image /src/scripts/image
RUN SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" /src/scripts/image/runtime.sh && rm -rf /src
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
    REPRO_SCRATCH=/tmp
WORKDIR /workspace
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["repro", "list"]
# It imports torch, so not often. An image that requires a GPU is unhealthy without one.
HEALTHCHECK --interval=10m --timeout=3m --start-period=5m --retries=2 CMD ["repro", "doctor"]

LABEL org.opencontainers.image.title="actiondiff" \
      org.opencontainers.image.description="Repeats the results table of ActionDiff (arXiv 2509.08908)" \
      org.opencontainers.image.authors="The actiondiff-repro maintainers" \
      org.opencontainers.image.vendor="The actiondiff-repro maintainers" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.url="https://www.vision.caltech.edu/actiondiff"

FROM runtime AS cpu
COPY --from=packages-cpu /opt/actiondiff /opt/actiondiff
COPY --from=project-cpu /project /
# Last, so that a new commit changes no layer but the project's.
ARG BASE_IMAGE VERSION REVISION CREATED SOURCE
ENV REPRO_IMAGE=actiondiff:${VERSION} \
    REPRO_COMMIT=${REVISION}
LABEL org.opencontainers.image.ref.name="cpu" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.documentation="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    REPRO_DEVICE=cuda
COPY --from=packages-cuda /opt/actiondiff /opt/actiondiff
COPY --from=project-cuda /project /
ARG BASE_IMAGE VERSION REVISION CREATED SOURCE
ENV REPRO_IMAGE=actiondiff:${VERSION} \
    REPRO_COMMIT=${REVISION}
LABEL org.opencontainers.image.ref.name="cuda" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.documentation="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

# Weights in the image, for those whose licences allow it. Files of yours, instead of fetching: --build-context weights=FOLDER
FROM scratch AS weights

FROM ${CHECKPOINTS_ON} AS fetched
ARG CHECKPOINTS=
ARG ACCEPT_LICENSE=
COPY --from=weights / /weights/
USER 0:0
# hadolint ignore=SC2046,SC2086
RUN [ "${ACCEPT_LICENSE}" = yes ] || { echo "image: read the licences (repro fetch), then --build-arg ACCEPT_LICENSE=yes" >&2; exit 1; }; \
    repro fetch ${CHECKPOINTS:?"image: name them with --build-arg CHECKPOINTS"} --accept-license --no-prepare --workspace /tmp/fetch \
        $([ -z "$(ls /weights)" ] || echo --from /weights) && \
    # Files of yours keep their permissions, and the container's user is another one.
    chmod -R a+rX /checkpoints && rm -f /checkpoints/.*.lock
USER 10001:10001

FROM ${CHECKPOINTS_ON} AS checkpoints
COPY --from=fetched /checkpoints /checkpoints

# `docker build .` builds the last target.
FROM cuda AS default
