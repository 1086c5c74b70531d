/* SPDX-License-Identifier: Apache-2.0
 * term: what the command shows: colours, bars, sparklines, readable numbers, messages on stderr.
 * Colour and plots appear on terminals only; NO_COLOR (no-color.org) and TERM=dumb turn colour
 * off. Leaves tables to the commands. */
#include "cli.h"

#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static struct {
    bool quiet, out_tty, err_tty, out_colour, err_colour, utf8;
    bool bar_shown;
    double bar_drawn_ms, bar_start_ms;
    char bar_what[64];
} term;

void term_init(bool quiet)
{
    setlocale(LC_CTYPE, ""); /* numbers stay in the C locale */
    const char *codeset = nl_langinfo(CODESET);
    const char *kind = getenv("TERM");
    const char *no_colour = getenv("NO_COLOR");
    bool dumb = !kind || strcmp(kind, "dumb") == 0;
    bool colour = !dumb && !(no_colour && no_colour[0]);
    term.quiet = quiet;
    term.out_tty = isatty(STDOUT_FILENO) != 0;
    term.err_tty = isatty(STDERR_FILENO) != 0 && !dumb;
    term.out_colour = term.out_tty && colour;
    term.err_colour = term.err_tty && colour;
    term.utf8 = codeset && strcmp(codeset, "UTF-8") == 0;
}

bool term_is_tty(void) { return term.out_tty; }
bool term_utf8(void) { return term.utf8; }

static int columns_of(int fd)
{
    struct winsize w;
    if (ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20)
        return w.ws_col > 400 ? 400 : w.ws_col;
    return 80;
}
int term_width(void) { return columns_of(STDOUT_FILENO); }

static const char *const codes[] = { "\033[0m",  "\033[1m",  "\033[2m",  "\033[31m",
                                     "\033[32m", "\033[33m", "\033[36m", "\033[34m" };
const char *ink(enum colour c) { return term.out_colour ? codes[c] : ""; }

/* ---------------------------------------------------------------- messages */

__attribute__((format(printf, 3, 0))) static void message(const char *mark, enum colour c,
                                                          const char *format, va_list args)
{
    char line[1024];
    vsnprintf(line, sizeof line, format, args);
    for (char *p = line; *p; p++) /* names and file contents reach this line */
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            *p = '?';
    term_bar_clear();
    fprintf(stderr, "%s%s%s%s\n", term.err_colour ? codes[c] : "", mark,
            term.err_colour ? codes[PLAIN] : "", line);
}

int(fail)(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message("pi0: ", RED, format, args);
    va_end(args);
    return EXIT_BAD;
}

int(fail_library)(const struct pi0_error *err)
{
    if (interrupted())
        return end_interrupted();
    return fail("%s", err->message[0] ? err->message : pi0_status_name(err->status));
}

void note(const char *format, ...)
{
    if (term.quiet)
        return;
    va_list args;
    va_start(args, format);
    message("", PLAIN, format, args);
    va_end(args);
}

void term_log(void *user, int level, const char *line)
{
    (void)user;
    if (level > 0)
        note("warning: %s", line);
}

/* ---------------------------------------------------------------- progress */

static void bar_text(FILE *f, double fraction, int width)
{
    static const char *const eighths[] = { " ", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    if (!(fraction > 0))
        fraction = 0;
    if (fraction > 1)
        fraction = 1;
    int parts = (int)(fraction * width * 8 + 0.5);
    for (int i = 0; i < width; i++) {
        int full = parts - 8 * i;
        if (!term.utf8)
            fputc(full >= 4 ? '#' : '.', f);
        else
            fputs(full >= 8 ? "█" : full > 0 ? eighths[full] : " ", f);
    }
}

void print_bar(FILE *f, double fraction, int width) { bar_text(f, fraction, width); }

static void bar_draw(const char *what, double fraction, const char *right)
{
    double now = now_ms();
    if (!term.bar_shown || strncmp(term.bar_what, what, sizeof term.bar_what - 1) != 0) {
        snprintf(term.bar_what, sizeof term.bar_what, "%s", what);
        term.bar_start_ms = now;
        term.bar_drawn_ms = 0;
    }
    if (now - term.bar_drawn_ms < 50 && fraction < 1)
        return; /* 20 pictures a second */
    term.bar_drawn_ms = now;
    term.bar_shown = true;
    int width = columns_of(STDERR_FILENO) - 52;
    width = width > 40 ? 40 : width < 8 ? 8 : width;
    fprintf(stderr, "\r\033[K%-22.22s %s", what, term.err_colour ? codes[CYAN] : "");
    bar_text(stderr, fraction, width);
    fprintf(stderr, "%s %3.0f%% %s", term.err_colour ? codes[PLAIN] : "", fraction * 100, right);
    double seconds = (now - term.bar_start_ms) / 1e3;
    if (seconds > 1 && fraction > 0.02 && fraction < 1)
        fprintf(stderr, " %.0f s left", seconds / fraction * (1 - fraction));
    fflush(stderr);
}

static bool bars_on(void) { return term.err_tty && !term.quiet; }

void term_bar(const char *what, uint64_t done, uint64_t total, const char *extra)
{
    if (bars_on())
        bar_draw(what, total ? (double)done / (double)total : 0, extra);
}

int term_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    if (bars_on()) {
        char a[32], b[32], right[72];
        snprintf(right, sizeof right, "%s of %s", human(a, (double)done, "B"),
                 human(b, (double)total, "B"));
        bar_draw(what ? what : "", total ? (double)done / (double)total : 0, right);
    }
    return interrupted();
}

void term_status(const char *what)
{
    if (!bars_on())
        return;
    term.bar_shown = true;
    term.bar_what[0] = '\0';
    fprintf(stderr, "\r\033[K%s%s", what, term.utf8 ? "…" : "...");
    fflush(stderr);
}

void term_bar_clear(void)
{
    if (!term.bar_shown)
        return;
    term.bar_shown = false;
    fputs("\r\033[K", stderr);
    fflush(stderr);
}

/* ---------------------------------------------------------------- plots and numbers */

void print_sparkline(FILE *f, const double *v, size_t n, size_t stride, double lo, double hi,
                     int width)
{
    static const char *const blocks[] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
    static const char ascii[] = "_.-~=+*#";
    size_t cells = n < (size_t)width ? n : (size_t)width;
    for (size_t c = 0; c < cells; c++) {
        size_t from = c * n / cells, to = (c + 1) * n / cells;
        double sum = 0;
        for (size_t i = from; i < to; i++)
            sum += v[i * stride];
        double mean = sum / (double)(to - from);
        double level = hi > lo ? (mean - lo) / (hi - lo) * 7.999 : 3;
        int b = level < 0 || isnan(level) ? 0 : level > 7 ? 7 : (int)level;
        if (term.utf8)
            fputs(blocks[b], f);
        else
            fputc(ascii[b], f);
    }
}

const char *human(char buf[32], double value, const char *unit)
{
    static const char *const prefixes[] = { "", "k", "M", "G", "T", "P" };
    double v = fabs(value);
    int i = 0;
    while (v >= 999.5 && i < 5) {
        v /= 1000;
        value /= 1000;
        i++;
    }
    int digits = i == 0 && v == floor(v) ? 0 : v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
    snprintf(buf, 32, "%.*f %s%s", digits, value, prefixes[i], unit);
    size_t n = strlen(buf);
    if (n && buf[n - 1] == ' ')
        buf[n - 1] = '\0';
    return buf;
}
