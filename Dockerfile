# VirNuc for containers: docker build -t virnuc . && docker run -v "$PWD:/data" -w /data virnuc \
#     snakemake --snakefile /opt/virnuc/workflow/Snakefile --profile /opt/virnuc/profiles/local
# Linted, but never built: no engine was available; a test runs VirNuc with the files copied below.
FROM python:3.11-slim-bookworm

WORKDIR /opt/virnuc
COPY pyproject.toml constraints.txt environment.yml README.md LICENSE ./
COPY virnuc_rules virnuc_rules
# torch first, at the pinned version: its Linux build on PyPI runs on CUDA and on CPUs.
RUN pip install --no-cache-dir --constraint constraints.txt torch \
    && pip install --no-cache-dir --constraint constraints.txt --editable .
COPY workflow workflow
COPY profiles profiles
COPY config config
COPY demo demo

RUN useradd --create-home --uid 1000 virnuc
USER 1000
CMD ["virnuc-rules", "--help"]
