# ser-batch on CPUs, with the tested versions.
#
#     docker build -t ser-batch .
#     docker run --rm -v "$PWD":/data ser-batch infer calls -o preds.csv

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.txt ./
RUN python -m venv /opt/ser-batch \
    && /opt/ser-batch/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY ser_batch ser_batch
# hatchling is only needed here.
RUN python -m venv /opt/hatchling \
    && /opt/hatchling/bin/pip install --no-cache-dir hatchling==1.33.0 \
    && /opt/hatchling/bin/hatchling build -t wheel -d /opt/wheel \
    && /opt/ser-batch/bin/pip install --no-cache-dir --no-deps /opt/wheel/*.whl

FROM python:3.11-slim-bookworm
# In a container, recordings and outputs belong to the user who starts it: docker run --user "$(id -u):$(id -g)".
RUN useradd --uid 1000 --create-home ser-batch
COPY --from=build /opt/ser-batch /opt/ser-batch
ENV PATH=/opt/ser-batch/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /data
ENTRYPOINT ["ser-batch"]
CMD ["--help"]
