# Data and weights: fetched on the machine that coordinates, unpacked and audited as jobs.


rule fetch:
    output:
        "data/fetch.json",
    log:
        "logs/fetch.log",
    params:
        command=command_of("fetch", "--json", *["--accept-license"] * config["accept_license"]),
    shell:
        "{params.command} > {output} 2> {log}"


rule prepare:
    input:
        rules.fetch.output,
    output:
        "data/{name}.prepared.json",
    log:
        "logs/prepare-{name}.log",
    params:
        command=command_of("prepare", "--json"),
    resources:
        mem_mb=memory_of("prepare"),
        runtime=minutes_of("prepare"),
    shell:
        "{params.command} > {output} 2> {log}"


# Exit code 4: clips or counts are not as published. What rows cannot do without, they refuse themselves.
rule audit:
    input:
        lambda wildcards: f"data/{wildcards.name}.prepared.json"
        if ("prepare", wildcards.name) in STEPS
        else rules.fetch.output,
    output:
        "data/{name}.audit.json",
    log:
        "logs/audit-{name}.log",
    params:
        command=command_of("audit", "--json"),
    threads: 8
    resources:
        mem_mb=memory_of("audit"),
        runtime=minutes_of("audit"),
    shell:
        "{params.command} --workers {threads} > {output} 2> {log} || test $? -eq 4"
