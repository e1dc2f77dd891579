// Says if the newest verified backup is too old.

#include "json.h"
#include "policy.h"
#include "text.h"

static policy_string_t string_of(json_text text) { return (policy_string_t){(uint8_t *)text.at, text.len}; }

// Parameters are those that policy.toml describes; the engine has checked them against that. False: the run failed, of `err`.
bool exports_policy_run(policy_string_t *parameters, policy_string_t *err) {
    json_text object = {(const char *)parameters->ptr, parameters->len}, service, store;
    uint64_t hours_max;
    if (!json_string(object, "service", &service) || !json_string(object, "store", &store) ||
        !json_number(object, "hours-max", &hours_max)) {
        *err = text_of("parameters: they can't be read", NULL);
        return false;
    }
    policy_string_t service_name = string_of(service), store_name = string_of(store);

    lifeboat_recovery_types_error_t error;
    lifeboat_recovery_catalog_option_own_backup_t newest;
    if (!lifeboat_recovery_catalog_latest(&service_name, &store_name, true, &newest, &error)) {
        *err = words_of("catalog.latest", &error);
        return false;
    }
    policy_string_t wrong = {NULL, 0};
    if (!newest.is_some) {
        wrong = text_of(part(store_name), " holds no verified backup of ", part(service_name), NULL);
    } else {
        lifeboat_recovery_types_borrow_backup_t backup = lifeboat_recovery_types_borrow_backup(newest.val);
        uint64_t now = lifeboat_recovery_clock_now(), taken = lifeboat_recovery_types_method_backup_taken_at_ms(backup);
        uint64_t hours = now > taken ? (now - taken) / 3600000 : 0;
        policy_string_t id;
        lifeboat_recovery_types_method_backup_id(backup, &id);
        policy_string_t note = text_of("backup ", part(id), " is ", part_number(hours), " h old", NULL);
        lifeboat_recovery_report_note(&note);
        if (hours >= hours_max) wrong = text_of("the newest verified backup is ", part_number(hours), " h old", NULL);
    }
    policy_string_t code = text_of(wrong.len == 0 ? "ok" : "verification-failed", NULL);
    if (wrong.len == 0) {
        wrong = text_of("the newest verified backup is young enough", NULL);
    } else {
        lifeboat_recovery_types_finding_t finding = {
            text_of("age", NULL), text_of("error", NULL), wrong, text_of("see why none was taken since", NULL)};
        lifeboat_recovery_report_add_finding(&finding);
    }
    lifeboat_recovery_report_outcome(&code, &wrong);
    return true;
}
