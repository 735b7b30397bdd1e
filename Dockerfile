# syntax=docker/dockerfile:1
# Two images of one project:
#
#   docker build --target operator -t scalerl-operator:0.1.0 .
#   docker build --target runtime  -t scalerl-runtime:0.1.0 .                                for machines without a GPU
#   docker build --target runtime  -t scalerl-runtime:0.1.0 --build-arg ACCELERATOR=cuda .   for NVIDIA GPUs
#
# `make images` builds both without a registry. docs/images.md documents their contents.

# Python 3.11 (the lock files hold for this version only) with its module venv.
ARG BASE=python:3.11-slim-bookworm

# -- build stage: a compiler for source packages, and the project's wheel ------------------------------------------------
FROM ${BASE} AS build
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev \
 && headers=$(python3 -c "import sysconfig; print(sysconfig.get_path('include'))") \
 && { [ -e "$headers/Python.h" ] \
      || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-dev; } \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
WORKDIR /build
COPY requirements/build.txt requirements/compiled.txt ./
RUN python3 -m venv /tools && /tools/bin/pip install --quiet --no-cache-dir --require-hashes -r build.txt \
 && /tools/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --require-hashes --wheel-dir /compiled -r compiled.txt
COPY pyproject.toml README.md LICENSE ./
COPY crds/scalerl_api crds/scalerl_api
COPY operator/scalerl_operator operator/scalerl_operator
COPY runtime/scalerl_runtime runtime/scalerl_runtime
RUN /tools/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
 && /tools/bin/pip install --quiet --no-cache-dir --no-deps --target /project /wheel/*.whl

# -- common to both images -----------------------------------------------------------------------------------------------
FROM ${BASE} AS common
RUN groupadd --gid 1000 scalerl \
 && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin scalerl \
 && cd /usr/local && rm -rf bin/pip* bin/wheel lib/python3.*/site-packages/*  # installers of the Python image
ENV PATH=/opt/scalerl/bin:$PATH PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="0.1.0"

# The installer is downloaded and removed in one step, so that no layer contains it.
COPY requirements/uv.txt scripts/install-packages /opt/scalerl-build/

# -- the operator: no torch, no Kubernetes client, no compiler -----------------------------------------------------------
FROM common AS operator
COPY requirements/operator.txt /opt/scalerl-build/packages.txt
RUN /opt/scalerl-build/install-packages
COPY --from=build /project /opt/scalerl/lib/python3.11/site-packages
ARG REVISION=unknown
LABEL org.opencontainers.image.title="scalerl-operator" \
      org.opencontainers.image.description="Reconciles RLRuns and forecasts their ceilings" \
      org.opencontainers.image.revision="${REVISION}"
USER 1000:1000
CMD ["python", "-m", "scalerl_operator", "operator"]

# -- the runtime: torch, vLLM, DeepSpeed, Ray ----------------------------------------------------------------------------
FROM common AS runtime
ARG ACCELERATOR=cpu
COPY requirements/runtime-${ACCELERATOR}.txt /opt/scalerl-build/packages.txt
COPY --from=build /compiled /opt/scalerl-build/compiled
RUN /opt/scalerl-build/install-packages
# vLLM's CPU kernels need libnuma. With a GPU, kernels are compiled at run time: Triton's launchers in C with Python's
# headers, FlashInfer's and torch.compile's in C++ and CUDA.
RUN if [ "$ACCELERATOR" = cuda ]; then \
      extra="gcc g++ libc6-dev" \
      && headers=$(python3 -c "import sysconfig; print(sysconfig.get_path('include'))") \
      && { [ -e "$headers/Python.h" ] || extra="$extra python3-dev"; }; \
    fi \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnuma1 ${extra:-} \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
# The wheels' nvcc and headers, at the place where compilers of kernels look when CUDA_HOME is not set.
RUN cuda=/opt/scalerl/lib/python3.11/site-packages/nvidia/cu13 \
 && if [ "$ACCELERATOR" = cuda ]; then \
      ln -s "$cuda" /usr/local/cuda && ln -s lib "$cuda/lib64" \
      && for library in "$cuda"/lib/lib*.so.*; do \
           name=${library%%.so.*}.so; [ -e "$name" ] || ln -s "${library##*/}" "$name"; \
         done; \
    fi
COPY --from=build /project /opt/scalerl/lib/python3.11/site-packages
ARG REVISION=unknown
LABEL org.opencontainers.image.title="scalerl-runtime" \
      org.opencontainers.image.description="Trains an RLRun: vLLM generators and a DeepSpeed trainer, joined by Ray" \
      org.opencontainers.image.revision="${REVISION}"
USER 1000:1000
CMD ["python", "-m", "scalerl_runtime", "coordinator"]

# -- the runtime without its packages, which are mounted: for the end-to-end test ----------------------------------------
FROM common AS runtime-code
RUN python3 -m venv --without-pip /opt/scalerl \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnuma1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /opt/scalerl-build
COPY --from=build /project /opt/scalerl/lib/python3.11/site-packages
LABEL org.opencontainers.image.title="scalerl-runtime-code" \
      org.opencontainers.image.description="The runtime's code; its packages have to be mounted, with PYTHONPATH set"
USER 1000:1000
CMD ["python", "-m", "scalerl_runtime", "coordinator"]
