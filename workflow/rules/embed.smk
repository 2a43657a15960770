# Without persistent models: a job for each chunk, which loads the models itself. The reference.


# One checkpoint for all samples, not one each: where Snakemake 9.27 updates its DAG after a
# checkpoint while other jobs run, it drops jobs and ends with success. Here none can run meanwhile:
# all samples are chunked, the bundle is there, and nothing is embedded yet.
checkpoint chunk_all:
    input:
        manifests=expand(MANIFEST, sample=SAMPLES),
        bundle=ancient(BUNDLE),
    output:
        touch(STAMPS / "chunked.txt"),


rule embed_chunk:
    input:
        manifest=MANIFEST,
        bundle=ancient(BUNDLE),
    output:
        stamp=STAMPS / "{sample}" / "{chunk}.txt",
    log:
        FOLDER.log("embed", "{sample}", "{chunk}"),
    conda:
        "../../environment.yml"
    threads: CONFIG.compute.threads
    params:
        options=options("embed"),
        fingerprint=from_card("fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules embed --sample {wildcards.sample:q} --chunk {wildcards.chunk}.parquet"
        " {params.options} --stamp {output.stamp:q} --log {log:q}"
