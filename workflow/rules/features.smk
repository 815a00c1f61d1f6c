# Features: each data set in parts, for all backbones that read the same of it; then packed in one step.


rule extract:
    input:
        before_extraction,
    output:
        "features/{name}/{part}of{parts}.json",
    log:
        "logs/extract-{name}-{part}of{parts}.log",
    params:
        command=extract_command,
        device=f"--devices {config['devices']}" if config["devices"] else f"--device {config['device']}",
    threads: 8
    retries: config["retries"]
    resources:
        gpu=need_of("extract", "gpus"),
        mem_mb=memory_of("extract"),
        # A grid computes 7 timesteps of what is encoded once.
        runtime=minutes_of("extract", parts_of, factor=lambda name: 3 if is_of_grid(name) else 1),
    shell:
        "{params.command} {params.device} --shard {wildcards.part}/{wildcards.parts} > {output} 2> {log}"


rule pack:
    input:
        lambda wildcards: [
            f"features/{wildcards.name}/{part}of{parts_of(wildcards.name)}.json"
            for part in range(1, parts_of(wildcards.name) + 1)
        ],
    output:
        "features/{name}.json",
    log:
        "logs/pack-{name}.log",
    params:
        command=extract_command,
    resources:
        mem_mb=memory_of("extract"),
        runtime=lambda wildcards, attempt: 240 * attempt,
    shell:
        "{params.command} --device cpu > {output} 2> {log}"
