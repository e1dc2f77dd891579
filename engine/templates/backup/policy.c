// Takes a backup, reads it back from the store, and says what is off.

#include "json.h"
#include "policy.h"
#include "text.h"

#include <string.h>

static bool is(policy_string_t text, const char *word) {
    return text.len == strlen(word) && memcmp(text.ptr, word, text.len) == 0;
}

static policy_string_t string_of(json_text text) { return (policy_string_t){(uint8_t *)text.at, text.len}; }

// Parameters are those that policy.toml describes; the engine has checked them against that. False: the run failed, of `err`.
bool exports_policy_run(policy_string_t *parameters, policy_string_t *err) {
    json_text object = {(const char *)parameters->ptr, parameters->len}, service, store, depth;
    uint64_t bytes_min;
    if (!json_string(object, "service", &service) || !json_string(object, "store", &store) ||
        !json_string(object, "depth", &depth) || !json_number(object, "bytes-min", &bytes_min)) {
        *err = text_of("parameters: they can't be read", NULL);
        return false;
    }
    policy_string_t service_name = string_of(service), store_name = string_of(store), depth_name = string_of(depth);
    lifeboat_recovery_types_error_t error;

    lifeboat_recovery_dump_own_options_t options = lifeboat_recovery_dump_constructor_options();
    lifeboat_recovery_types_own_backup_t taken;
    if (!lifeboat_recovery_dump_take(&service_name, &store_name, lifeboat_recovery_dump_borrow_options(options), &taken, &error)) {
        *err = words_of("dump.take", &error);
        return false;
    }
    lifeboat_recovery_types_borrow_backup_t backup = lifeboat_recovery_types_borrow_backup(taken);
    policy_string_t id;
    lifeboat_recovery_types_method_backup_id(backup, &id);
    uint64_t bytes = lifeboat_recovery_types_method_backup_stored_bytes(backup);
    policy_string_t note = text_of("backup ", part(id), ": ", part_number(bytes), " bytes", NULL);
    lifeboat_recovery_report_note(&note);

    lifeboat_recovery_upload_list_finding_t found;
    if (!lifeboat_recovery_upload_verify(backup, &depth_name, &found, &error)) {
        *err = words_of("upload.verify", &error);
        return false;
    }
    bool sound = true;
    for (size_t at = 0; at < found.len; at += 1) {
        sound = sound && !is(found.ptr[at].severity, "error");
        lifeboat_recovery_report_add_finding(&found.ptr[at]);
    }
    if (bytes < bytes_min) {
        sound = false;
        lifeboat_recovery_types_finding_t small = {
            text_of("small", NULL),
            text_of("error", NULL),
            text_of("backup ", part(id), " has ", part_number(bytes), " bytes, fewer than ", part_number(bytes_min), NULL),
            text_of("see whether the service still has its data", NULL),
        };
        lifeboat_recovery_report_add_finding(&small);
    }
    policy_string_t code = text_of(sound ? "ok" : "verification-failed", NULL);
    policy_string_t summary = sound ? text_of("backup ", part(id), " is in ", part(store_name), NULL)
                                    : text_of("backup ", part(id), " was taken, but must not be relied on", NULL);
    lifeboat_recovery_report_outcome(&code, &summary);
    return true;
}
