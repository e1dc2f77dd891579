#include "text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// A run is short, and its memory goes with it: nothing is freed. Without memory there is no way on: the trap ends the run, and the engine settles it.
static void *memory(size_t bytes) {
    void *got = malloc(bytes);
    if (got == NULL) __builtin_trap();
    return got;
}

policy_string_t text_of(const char *first, ...) {
    va_list parts, again;
    size_t len = 0, at = 0;
    va_start(parts, first);
    va_copy(again, parts);
    for (const char *one = first; one != NULL; one = va_arg(parts, const char *)) len += strlen(one);
    va_end(parts);
    uint8_t *bytes = memory(len + 1);
    for (const char *one = first; one != NULL; one = va_arg(again, const char *)) {
        size_t more = strlen(one);
        memcpy(bytes + at, one, more);
        at += more;
    }
    va_end(again);
    bytes[len] = 0;
    return (policy_string_t){bytes, len};
}

const char *part(policy_string_t text) {
    char *copy = memory(text.len + 1);
    if (text.len > 0) memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    return copy;
}

const char *part_number(uint64_t number) {
    // 2^64 - 1 has 20 digits.
    char *end = (char *)memory(21) + 20;
    *end = 0;
    do {
        *--end = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    return end;
}

policy_string_t words_of(const char *call, lifeboat_recovery_types_error_t *error) {
    // Every case but this one carries a text, at the same place.
    if (error->tag == LIFEBOAT_RECOVERY_TYPES_ERROR_CANCELLED) return text_of(call, ": cancelled", NULL);
    return text_of(call, ": ", part(error->val.other), NULL);
}
