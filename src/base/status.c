/* SPDX-License-Identifier: Apache-2.0
 * status: formatting of errors and the names of statuses. Knows nothing of what failed. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

/* Length of the valid UTF-8 sequence at s, 0 if there is none. Follows table 3-7 of the Unicode
 * standard. */
static int utf8_len(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    int n = s[0] >= 0xF0 && s[0] <= 0xF4  ? 4
            : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
            : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
                                          : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

pi0_status(pi0_fail)(struct pi0_error *err, pi0_status status, const char *format, ...)
{
    if (!err)
        return status;
    err->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    for (unsigned char *p = (unsigned char *)err->message; *p;) {
        int n = utf8_len(p); /* a sequence cut by the buffer's end meets the NUL and is not valid */
        if (n == 0 || *p < 0x20 || *p == 0x7F) {
            *p = '?';
            n = 1;
        }
        p += n;
    }
    return status;
}

PI0_API const char *pi0_status_name(pi0_status status)
{
    switch (status) {
    case PI0_OK: return "ok";
    case PI0_E_ARGUMENT: return "bad argument";
    case PI0_E_IO: return "input/output";
    case PI0_E_FORMAT: return "malformed file";
    case PI0_E_MODEL: return "not a usable checkpoint";
    case PI0_E_INPUT: return "unusable input";
    case PI0_E_NOMEM: return "out of memory";
    case PI0_E_UNSUPPORTED: return "not supported";
    case PI0_E_DEVICE: return "device failure";
    case PI0_E_INTERNAL: return "internal error";
    }
    return "unknown status";
}

PI0_API const char *pi0_version(void) { return "0.1.0"; }
