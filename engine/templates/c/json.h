// Reads members of a flat JSON object: the policy's parameters. The engine has checked them against policy.toml, and fills in defaults.

#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A text of so many bytes; not terminated.
typedef struct {
    const char *at;
    size_t len;
} json_text;

// The member's text. False if there is none, or if it has an escape: names of services and stores have none.
bool json_string(json_text object, const char *key, json_text *value);

// The member's number. False if there is none, or if it is no number from 0 to 2^64 - 1 without a fraction.
bool json_number(json_text object, const char *key, uint64_t *value);

#endif
