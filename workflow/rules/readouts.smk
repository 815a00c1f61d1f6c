# Readouts: a job a row and seed; a job a row for the cells of its grid, of which those of a layer are trained as one program.


rule readout:
    input:
        features_of("readout"),
    output:
        "readouts/{name}.json",
    log:
        "logs/readout-{name}.log",
    params:
        command=command_of(
            "readout", "--json", "--device", config["device"], *["--allow-damaged"] * config["allow_damaged"]
        ),
    threads: 4
    retries: config["retries"]
    resources:
        gpu=need_of("readout", "gpus"),
        mem_mb=memory_of("readout"),
        runtime=minutes_of("readout"),
    shell:
        "{params.command} > {output} 2> {log}"


rule grid:
    input:
        features_of("grid"),
        # The row's own cell is one of the grid's: its runs are trained once.
        lambda wildcards: [
            f"readouts/{name}.json" for name in names_of("readout") if name.startswith(f"{wildcards.name}-seed")
        ],
    output:
        "grids/{name}.json",
    log:
        "logs/grid-{name}.log",
    params:
        command=command_of(
            "grid", "--json", "--device", config["device"], *["--allow-damaged"] * config["allow_damaged"]
        ),
    threads: 4
    retries: config["retries"]
    resources:
        gpu=need_of("grid", "gpus"),
        mem_mb=memory_of("grid"),
        # 91 cells.
        runtime=minutes_of("grid", factor=lambda name: 91),
    shell:
        "{params.command} > {output} 2> {log}"
