//! Where an engine runs: whether the process of another one can be seen from here, and lives.

use std::os::unix::fs::MetadataExt;

use host_api::child::start_ticks;

/// This process: the boot of its machine, its namespace of process ids, its id and when it started.
pub(crate) fn here() -> String {
    let process = std::process::id();
    format!("{} {process} {}", machine(), start_ticks(process).unwrap_or(0))
}

/// Whether the process of a place lives; none where it can't be seen from here.
pub(crate) fn is_alive(place: &str) -> Option<bool> {
    let (there, rest) = place.split_once(' ')?;
    if there != machine() {
        return None;
    }
    let (process, started) = rest.split_once(' ')?;
    let (process, started) = (process.parse().ok()?, started.parse().ok()?);
    Some(start_ticks(process) == Some(started))
}

/// Two containers of one machine see each other's processes under other ids, or not at all.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let processes = std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
    format!("{}/{processes}", boot.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_another_start_of_its_id_does_not_and_another_machine_can_not_be_seen() {
        let here = here();
        assert_eq!(is_alive(&here), Some(true));
        assert_eq!(is_alive(&format!("{here}9")), Some(false));
        assert_eq!(is_alive(&format!("x{here}")), None);
        assert_eq!(is_alive("garbage"), None);
    }
}
