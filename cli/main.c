/* SPDX-License-Identifier: Apache-2.0
 * main: from argv to a command, and what a signal does. Ctrl-C must leave no half-written file:
 * during library calls that report progress it only sets a flag (they clean up after themselves);
 * elsewhere it removes the guarded temporary file and ends the process as the signal would. */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t polling, pending;
static char guarded[4096];
static volatile sig_atomic_t guarding;

static void on_signal(int number)
{
    if (polling) {
        pending = number;
        return;
    }
    if (guarding)
        unlink(guarded);
    if (isatty(STDERR_FILENO)) {
        ssize_t ignored = write(STDERR_FILENO, "\n", 1);
        (void)ignored;
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void interrupts_install(void)
{
    struct sigaction act = { .sa_handler = on_signal }, old;
    sigemptyset(&act.sa_mask);
    const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    for (int i = 0; i < 3; i++)
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &act, NULL);
}

void interrupts_poll_begin(void) { polling = 1; }
void interrupts_poll_end(void) { polling = 0; }
bool interrupted(void) { return pending != 0; }

void interrupts_guard(const char *temporary)
{
    guarding = 0;
    if (!temporary)
        return;
    snprintf(guarded, sizeof guarded, "%s", temporary);
    guarding = 1;
}

int end_interrupted(void)
{
    int number = pending;
    term_bar_clear();
    fail("stopped; nothing half-written is left behind");
    signal(number, SIG_DFL);
    raise(number);
    return 128 + number;
}

static const struct {
    const char *name;
    enum command command;
    int (*run)(const struct args *a);
} commands[] = {
    { "run", CMD_RUN, cmd_run },
    { "check", CMD_CHECK, cmd_check },
    { "inspect", CMD_INSPECT, cmd_inspect },
    { "bench", CMD_BENCH, cmd_bench },
    { "synth", CMD_SYNTH, cmd_synth },
};
#define N_COMMANDS ((int)(sizeof commands / sizeof commands[0]))

static int command_index(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return i;
    return -1;
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS + 2];
    for (int i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    names[N_COMMANDS] = "help";
    names[N_COMMANDS + 1] = NULL;
    const char *near = nearest_name(name, names);
    return fail("unknown command \"%s\"%s%s%s; expected run, check, inspect, bench, synth or help",
                name, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

/* A full disk shows only when the buffer is written out. */
static int finish(int code)
{
    term_bar_clear();
    errno = 0;
    if (fflush(stdout) || ferror(stdout))
        return fail("stdout: cannot be written: %s", strerror(errno ? errno : EIO));
    return code;
}

static int help_page(int argc, char **argv)
{
    if (argc < 3) {
        help_main(stdout);
        return EXIT_DONE;
    }
    int c = command_index(argv[2]);
    if (c < 0)
        return unknown_command(argv[2]);
    help_command(stdout, commands[c].command);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    term_init(false);
    interrupts_install();
    if (argc < 2) {
        help_main(stderr);
        return EXIT_BAD;
    }
    const char *word = argv[1];
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return finish(help_page(argc, argv));
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
        printf("pi0 %s\n", pi0_version());
        return finish(EXIT_DONE);
    }
    if (word[0] == '-')
        return fail("unknown option %s before a command; expected run, check, inspect, bench, "
                    "synth, --help or --version",
                    word);
    int c = command_index(word);
    if (c < 0)
        return unknown_command(word);
    static struct args a;
    static char line[2048];
    snprintf(line, sizeof line, "pi0"); /* before parsing cuts lists at their commas */
    for (int i = 1; i < argc; i++)
        snprintf(line + strlen(line), sizeof line - strlen(line), " %s", argv[i]);
    int code = args_parse(&a, commands[c].command, argc - 1, argv + 1);
    if (code)
        return code;
    if (a.help) {
        help_command(stdout, commands[c].command);
        return finish(EXIT_DONE);
    }
    a.command_line = line;
    term_init(a.quiet);
    return finish(commands[c].run(&a));
}
