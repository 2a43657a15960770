# Embeddings to scores, scores to calls.


rule predict:
    input:
        chunks=CHUNKED,
        embedded=embedded,
        bundle=BUNDLE_IF_MADE,
    output:
        # Not the tables: Snakemake would delete older ones before the job, which may fail.
        done=PREDICTED,
    log:
        FOLDER.log("predict", "{sample}"),
    benchmark:
        FOLDER.benchmark("predict", "{sample}")
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards: FOLDER.sample(wildcards.sample).path,
        options=options("predict"),
    shell:
        "virnuc-rules predict --sample {wildcards.sample:q} --out {params.out:q}"
        " {params.options} --stamp {output.done:q} --log {log:q}"


# For targets such as results/lake/contigs.tsv, and for workflows that use this one as a module.
rule tables:
    input:
        done=PREDICTED,
        now=lambda wildcards: if_stale(PLAN.samples[wildcards.sample].has_tables),
    output:
        update(FOLDER.sample("{sample}", CONFIG.chunking.like_virnucpro).files()),
    log:
        FOLDER.log("tables", "{sample}"),
    localrule: True
    conda:
        "../../environment.yml"
    params:
        options=options("check"),
    shell:
        "virnuc-rules check --sample {wildcards.sample:q} {params.options} --log {log:q}"
