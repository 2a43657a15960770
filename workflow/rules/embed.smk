# Without persistent models: a job for each chunk, which loads the models. The reference.


# One checkpoint for all samples, not one for each: Snakemake 9.27 loses jobs, and ends with success,
# if it updates its DAG after a checkpoint while jobs run. No job can run at this checkpoint: all
# samples are chunked, the bundle exists, and nothing is embedded yet.
checkpoint chunk_all:
    input:
        chunks=expand(CHUNKED, sample=SAMPLES),
        bundle=BUNDLE_IF_MADE,
    output:
        touch(FOLDER.chunked),


rule embed_chunk:
    input:
        chunks=CHUNKED,
        bundle=BUNDLE_IF_MADE,
    output:
        stamp=FOLDER.chunk_stamp("{sample}", "{chunk}"),
    log:
        FOLDER.log("embed", "{sample}", "{chunk}"),
    conda:
        "../../environment.yml"
    threads: CONFIG.compute.threads
    params:
        options=options("embed"),
        need="--need-embeddings" if PLAN.can_train else "",
    shell:
        "virnuc-rules embed --sample {wildcards.sample:q} --chunk {wildcards.chunk}.parquet"
        " {params.options} {params.need} --stamp {output.stamp:q} --log {log:q}"
