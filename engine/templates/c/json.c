#include "json.h"

#include <string.h>

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// Steps over a string that begins at `at`; where it ends, or the end of the text.
static size_t past_string(json_text text, size_t at) {
    for (at += 1; at < text.len; at += 1) {
        if (text.at[at] == '\\') at += 1;
        else if (text.at[at] == '"') return at + 1;
    }
    return text.len;
}

// Where the value of a member of the outermost object begins, or the end of the text.
static size_t value_of(json_text text, const char *key) {
    size_t depth = 0, len = strlen(key);
    for (size_t at = 0; at < text.len;) {
        char c = text.at[at];
        if (c == '"') {
            size_t end = past_string(text, at), next = end;
            while (next < text.len && is_space(text.at[next])) next += 1;
            bool is_key = depth == 1 && next < text.len && text.at[next] == ':';
            if (is_key && end - at == len + 2 && memcmp(text.at + at + 1, key, len) == 0) {
                for (next += 1; next < text.len && is_space(text.at[next]);) next += 1;
                return next;
            }
            at = end;
            continue;
        }
        if (c == '{' || c == '[') depth += 1;
        if (c == '}' || c == ']') depth -= 1;
        at += 1;
    }
    return text.len;
}

bool json_string(json_text object, const char *key, json_text *value) {
    size_t at = value_of(object, key);
    if (at >= object.len || object.at[at] != '"') return false;
    size_t end = past_string(object, at);
    if (end - at < 2 || object.at[end - 1] != '"') return false;
    *value = (json_text){object.at + at + 1, end - at - 2};
    return memchr(value->at, '\\', value->len) == NULL;
}

bool json_number(json_text object, const char *key, uint64_t *value) {
    size_t at = value_of(object, key), from = at;
    uint64_t number = 0;
    for (; at < object.len && object.at[at] >= '0' && object.at[at] <= '9'; at += 1) {
        uint64_t digit = (uint64_t)(object.at[at] - '0');
        if (number > (UINT64_MAX - digit) / 10) return false;
        number = number * 10 + digit;
    }
    *value = number;
    bool ended = at < object.len && (object.at[at] == ',' || object.at[at] == '}' || is_space(object.at[at]));
    return at > from && ended;
}
