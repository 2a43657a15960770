# Persistent models: one long-lived worker for each device pulls chunks from the queue.


rule serve:
    input:
        chunks=lambda wildcards: [
            FOLDER.chunks(sample).done
            for sample in PLAN.needed(wildcards.worker.startswith((EVERY, TRAIN)))
        ],
        bundle=BUNDLE_IF_MADE,
    output:
        stamp=FOLDER.worker_stamp("{worker}"),
    log:
        FOLDER.log("serve", "{worker}"),
    benchmark:
        FOLDER.benchmark("serve", "{worker}")
    conda:
        "../../environment.yml"
    threads: CONFIG.compute.threads
    params:
        options=options("serve"),
        index=lambda wildcards: wildcards.worker.rpartition("_")[2],
        every=lambda wildcards: {
            EVERY: "--every-sample",
            TRAIN: "--every-sample --need-embeddings",
        }.get(wildcards.worker.rstrip("0123456789"), ""),
        # A function of resources: a change of the runtime does not make the job run again.
        deadline=lambda wildcards, resources: (
            f"--deadline {resources.runtime}" if resources.get("runtime") else ""
        ),
    shell:
        "virnuc-rules serve --worker {params.index} {params.options} {params.every}"
        " {params.deadline} --stamp {output.stamp:q} --log {log:q}"
