// Texts that are put together, and the words of errors.

#ifndef TEXT_H
#define TEXT_H

#include "policy.h"

// A text of the parts, up to the first NULL; lives until the run ends.
policy_string_t text_of(const char *first, ...);

// A text as a part; lives until the run ends.
const char *part(policy_string_t text);

// A number as a part; lives until the run ends.
const char *part_number(uint64_t number);

// The words of an error, for whoever reads how the run ended.
policy_string_t words_of(const char *call, lifeboat_recovery_types_error_t *error);

#endif
