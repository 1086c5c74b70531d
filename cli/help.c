/* SPDX-License-Identifier: Apache-2.0
 * help: the pages of `pi0 --help` and `pi0 COMMAND --help`: what a command is for, examples that
 * can be pasted, and the options as options.c knows them. */
#include "cli.h"

void help_main(FILE *f)
{
    const char *b = f == stdout ? ink(BOLD) : "", *c = f == stdout ? ink(CYAN) : "";
    const char *p = f == stdout ? ink(PLAIN) : "";
    fprintf(f,
            "%spi0%s runs the robot policies π0 and π0.5: camera images, a robot's state and a "
            "sentence in,\na chunk of actions out.\n\n"
            "%sCommands%s\n"
            "  %srun%s      one observation → one chunk of actions\n"
            "  %scheck%s    compare an engine with stored reference values, stage by stage\n"
            "  %sinspect%s  what a checkpoint is; memory, work and kernels of an engine\n"
            "  %sbench%s    latency and rates of named workloads\n"
            "  %ssynth%s    write a random checkpoint to try things with\n"
            "  %shelp%s     COMMAND: examples and every option of a command\n\n",
            b, p, b, p, c, p, c, p, c, p, c, p, c, p, c, p);
    fprintf(f,
            "%sTo begin with%s, no weights needed:\n"
            "  pi0 synth --dims pi0_tiny -o /tmp/tiny\n"
            "  pi0 inspect --model /tmp/tiny\n"
            "  pi0 run --model /tmp/tiny --no-stats --image base_0_rgb=scene.png \\\n"
            "      --state 0,0.5 --tokens 2,17,35,4\n"
            "  pi0 bench tiny\n\n"
            "With a checkpoint of openpi (converted to PyTorch) or lerobot:\n"
            "  pi0 run --model pi0_libero --preset pi0_libero --image observation/image=front.png "
            "\\\n"
            "      --image observation/wrist_image=wrist.png --state state.json \\\n"
            "      --prompt \"pick up the red block\" -o actions.npy\n\n"
            "%sExit codes%s: 0 done; 1 `check` found a stage above its tolerance; 2 bad usage or "
            "input\n(one line on stderr says what was found and what was expected).\n"
            "%spi0 --version%s prints the version. The manual: man pi0.\n",
            b, p, b, p, b, p);
}

struct page {
    enum command command;
    const char *usage, *about, *examples;
};

static const struct page pages[] = {
    { CMD_RUN, "pi0 run --model DIR --image NAME=FILE … --state LIST|FILE --prompt TEXT [options]",
      "Runs one observation. On a terminal: the chunk as a table (rows are actions in time, "
      "columns\n"
      "the robot's dimensions), a small plot of each dimension, and the time of every stage. In a\n"
      "pipe: the whole table as plain text; with --json one object; with -o a file.",
      "  # LIBERO checkpoint, two cameras, 8 state values\n"
      "  pi0 run --model ckpt --preset pi0_libero --image observation/image=front.png \\\n"
      "      --image observation/wrist_image=wrist.jpg \\\n"
      "      --state 0.05,0.02,0.21,3.1,0.0,0.1,0.04,-0.04 --prompt \"put the bowl on the "
      "plate\"\n\n"
      "  # the same seed gives the same actions, bit for bit; NAME.npy opens with numpy.load\n"
      "  pi0 run … --seed 7 -o actions.npy\n\n"
      "  # no tokenizer at hand: ids; no statistics: the model's own units\n"
      "  pi0 run --model ckpt --no-stats --image base_0_rgb=a.png --state s.json --tokens "
      "2,17,4\n\n"
      "  # one number out of the JSON\n"
      "  pi0 run … --json | jq '.actions[0]'" },
    { CMD_CHECK, "pi0 check --case DIR | --model DIR --io FILE [options]",
      "Runs the inputs stored in a golden file and compares every stage it holds: relative L2 "
      "error,\n"
      "cosine and largest error over valid rows. Exit code 1 when a judged stage is above its\n"
      "tolerance.",
      "  pi0 check --case tests/golden/pi0_tiny --precision f32\n"
      "  pi0 check --case tests/golden/pi05_tiny --isa avx2 --threads 1\n"
      "  pi0 check --model ckpt --io reference.safetensors --backend cuda --json" },
    { CMD_INSPECT, "pi0 inspect --model DIR | --synthetic NAME [options]",
      "Shows variant, dimensions and parameters of a checkpoint, then opens an engine and shows "
      "its\n"
      "memory by part, the work of each stage for the workloads of `pi0 bench`, and the kernel\n"
      "chosen for every op.",
      "  pi0 inspect --model ckpt --no-engine          # the files alone: instant\n"
      "  pi0 inspect --synthetic pi0 --horizon 10      # the real π0 without its weights\n"
      "  pi0 inspect --model ckpt --json | jq .kernels" },
    { CMD_BENCH, "pi0 bench [WORKLOAD,…] [options]",
      "Measures whole calls and their stages with random inputs that differ from call to call, "
      "and\n"
      "puts FLOP and byte rates beside the plan's counts. Synthetic weights unless --model is "
      "given.",
      "  pi0 bench tiny --n 200\n"
      "  pi0 bench pi0-532 --threads 8\n"
      "  pi0 bench pi0-532,pi0-788 --batch 1,2,4 --json --append bench/results/cpu.jsonl\n\n"
      "  # every kernel by itself, beside the vendor's library and the floor\n"
      "  pi0 bench pi0-788 --kernels --backend cuda\n\n"
      "  # tables and charts of this machine; two of them side by side\n"
      "  pi0 bench pi0-788,pi0-532 --report study\n"
      "  pi0 bench --compare before/report.json study/report.json" },
    { CMD_SYNTH, "pi0 synth --dims NAME -o DIR [options]",
      "Writes model.safetensors and config.json with values that are a function of tensor name "
      "and\n"
      "seed: the real shapes, nothing learned. Full π0 takes 6.5 GB.",
      "  pi0 synth --dims pi0_tiny -o /tmp/tiny\n"
      "  pi0 synth --dims pi05 --seed 2 -o /data/pi05\n"
      "  pi0 synth --dims pi0_tiny --set image_size=224 --set vocab_size=2048 -o /tmp/mid\n"
      "  pi0 synth --case tests/golden/pi0_tiny_3cam -o /tmp/case" },
};

void help_command(FILE *f, enum command command)
{
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        const struct page *g = &pages[i];
        if (g->command != command)
            continue;
        fprintf(f, "%s%s%s\n\n%s\n\n%sExamples%s\n%s\n", ink(BOLD), g->usage, ink(PLAIN), g->about,
                ink(BOLD), ink(PLAIN), g->examples);
        if (command == CMD_BENCH) {
            fprintf(f, "\n%sWorkloads%s\n", ink(BOLD), ink(PLAIN));
            for (int k = 0; workload_at(k); k++)
                fprintf(f, "  %s%-14s%s %s\n", ink(CYAN), workload_at(k)->name, ink(PLAIN),
                        workload_at(k)->about);
        }
        args_print_options(f, command);
        return;
    }
}
