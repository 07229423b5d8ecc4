# The image of workers and migrations (docker-compose.temporal.yml). It installs the versions that
# constraints.txt pins, runs as an unprivileged user, and needs only /scratch as a writable file system.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY rindle rindle
RUN pip install --constraint constraints.txt --upgrade pip \
    && pip install --constraint constraints.txt --build-constraint constraints.txt ".[all]"

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libmagic1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin rindle \
    && install --directory --owner rindle --mode 0700 /scratch
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RINDLE_TMP_DIR=/scratch
WORKDIR /app
COPY worker.py ./
COPY examples examples
USER 10001:10001
# exec form: SIGTERM must reach Python, which then finishes the running work
CMD ["python", "worker.py"]
