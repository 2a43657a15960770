# Contigs to windows, windows to open frames, open frames to chunks.


rule chunk:
    input:
        files=lambda wildcards: PLAN.edges(
            PLAN.chunks(wildcards.sample), SAMPLES[wildcards.sample]
        ),
    output:
        done=CHUNKED,
    log:
        FOLDER.log("chunk", "{sample}"),
    benchmark:
        FOLDER.benchmark("chunk", "{sample}")
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards: FOLDER.chunks(wildcards.sample).path,
        files=lambda wildcards: SAMPLES[wildcards.sample],
        options=options("chunk"),
    shell:
        "virnuc-rules chunk --sample {wildcards.sample:q} --out {params.out:q} {params.options}"
        " --stamp {output.done:q} --log {log:q} -- {params.files:q}"
