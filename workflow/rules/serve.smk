# Persistent models: one long-lived worker for each device pulls chunks from the queue.


rule serve:
    input:
        manifests=expand(MANIFEST, sample=SAMPLES),
        samples=ancient(CONFIG.inputs.samples),
        bundle=ancient(BUNDLE),
    output:
        stamp=STAMPS / "worker_{worker}.txt",
    log:
        FOLDER.log("serve", "{worker}"),
    benchmark:
        FOLDER.benchmark("serve", "{worker}")
    conda:
        "../../environment.yml"
    threads: CONFIG.compute.threads
    params:
        options=options("serve"),
        # A function of resources: a change of the runtime does not make the job run again.
        deadline=lambda wildcards, resources: (
            f"--deadline {resources.runtime}" if resources.get("runtime") else ""
        ),
        fingerprint=from_card("fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules serve --worker {wildcards.worker} {params.options} {params.deadline}"
        " --stamp {output.stamp:q} --log {log:q}"
